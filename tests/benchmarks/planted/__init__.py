"""Small graphs, each with one trait that an engine may refuse: what the table of capabilities is tried on.

``planted()`` gives them by name, ``reduce-mean/axes-given`` and so on; each group is a function of its own.
"""

from __future__ import annotations

import onnx

from tests.benchmarks.planted.control import loops, recurrent
from tests.benchmarks.planted.layers import attentions, layers, norms, pools, resizes
from tests.benchmarks.planted.models import foreign, names, opsets
from tests.benchmarks.planted.quantized import dynamic_quantization, quantizers
from tests.benchmarks.planted.values import (
    one_hots,
    parameters,
    pointwise,
    reductions,
    scatters,
    shapes,
    topk,
    types,
    wide_numbers,
)

GROUPS = (
    opsets,
    reductions,
    quantizers,
    dynamic_quantization,
    loops,
    pools,
    types,
    wide_numbers,
    shapes,
    topk,
    foreign,
    recurrent,
    parameters,
    one_hots,
    resizes,
    layers,
    norms,
    scatters,
    pointwise,
    attentions,
    names,
)


def planted() -> dict[str, onnx.ModelProto]:
    """Every graph by its name."""
    found: dict[str, onnx.ModelProto] = {}
    for group in GROUPS:
        for name, model in group():
            assert name not in found, name
            found[name] = model
    return found
