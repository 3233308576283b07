"""What a compiled model really executes, in the names of the graph it was made from, and how long each layer took."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Executed
from edgeattn.backends._common import Given, placed
from edgeattn.backends._openvino_session import OpenVinoSession

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays

_LABELS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_RECURRENT = {"RNNCell", "RNNSeq", "LSTMCell", "LSTMSeq"}
_MAC_LAYERS = {"Convolution", "FullyConnected", "MatMul", "Deconvolution", *_RECURRENT}
_ROLES = {**dict.fromkeys(_MAC_LAYERS, "product"), "Reorder": "layout", "Transpose": "layout", "Convert": "convert"}
_SILENT = ("Const", "Input", "Output", "Result")  # held or handed over, not executed
_FUSION_MARKS = re.compile("(/WithoutBiases|/DequantizationMultiply|/DequantizationSubtract)+$")
_WARM_UP_RUNS = 3
_TOLD = ("layerType", "runtimePrecision", "outputPrecisions", "primitiveType", "execTimeMcs", "originalLayersNames")


def timed(compiled: Any, model: onnx.ModelProto, rounds: bool, feeds: Arrays, runs: int) -> list[Executed]:
    """The layers of a model compiled with counters, each with its mean time over ``runs`` runs."""
    session = OpenVinoSession(compiled, [value.name for value in model.graph.output])
    cold, every = (_counted(session, compiled, model, rounds, feeds, n) for n in (_WARM_UP_RUNS, max(runs, 1)))
    # A counter holds the mean of all runs so far, and the first few are no measure.
    early = {node.node: node.milliseconds * _WARM_UP_RUNS for node in cold}
    total = _WARM_UP_RUNS + max(runs, 1)
    return [
        replace(n, milliseconds=max(0.0, n.milliseconds * total - early.get(n.node, 0.0)) / max(runs, 1)) for n in every
    ]


def products(compiled: Any, model: onnx.ModelProto, rounds: bool) -> Iterator[tuple[str, str]]:
    """``(node, precision)`` of every multiply-accumulate layer in the compiled model, by the names in ``model``."""
    for node in executed(compiled, model, rounds):
        if node.role == "product":
            yield next(iter(node.stands_for), node.node), node.precision


def _counted(
    session: OpenVinoSession, compiled: Any, model: onnx.ModelProto, rounds: bool, feeds: Arrays, runs: int
) -> list[Executed]:
    """What was executed, with the counters after ``runs`` more runs."""
    for _ in range(runs):
        session.run(feeds)
    return executed(compiled, model, rounds, ran=True)


def executed(compiled: Any, model: onnx.ModelProto, rounds: bool, ran: bool = False) -> list[Executed]:
    """The layers of a compiled model, in the names of the graph it was made from; once it ran, those that did.

    Without ``rounds`` a layer of floats does not quantize them: where it says INT8, its weights alone are.
    """
    given = Given(model)
    nodes, reads, idle = [], {}, set()
    for op in compiled.get_runtime_model().get_ordered_ops():
        told = op.get_rt_info()
        info = {key: told[key].astype(str) for key in _TOLD if key in told}
        if info.get("layerType", "Const") in _SILENT:
            continue
        name = op.get_friendly_name()
        reads[name] = [port.get_source_output().get_node().get_friendly_name() for port in op.inputs()]
        if (
            info.get("runtimePrecision") == "i8"
            and not rounds
            and op.inputs()
            and op.get_input_element_type(0).is_real()
        ):
            info["runtimePrecision"] = "f32"  # its weights alone are INT8
        nodes.append(_layer(name, info, given))
        if ran and info.get("execTimeMcs") == "not_executed":
            idle.add(name)
    found = placed(given.recurrent(nodes, _RECURRENT), reads)
    return [node for node in found if node.node not in idle]


def _layer(name: str, info: Mapping[str, str], given: Given) -> Executed:
    # The first name is the layer's own; what was fused into it may have left its mark there.
    known = given.find(_FUSION_MARKS.sub("", part) for part in info.get("originalLayersNames", "").split(","))
    passes = info["layerType"] == "FakeQuantize" or given.only_quantizes(known)
    role = "quantize" if passes else _ROLES.get(info["layerType"], "other")
    spent, precision = info.get("execTimeMcs", ""), info.get("runtimePrecision", "")
    if role == "layout" and info.get("outputPrecisions", precision) != precision:
        role = "convert"
    return Executed(
        name,
        info["layerType"],
        role,
        _LABELS.get(precision, precision),
        info.get("primitiveType", ""),
        int(spent) / 1000 if spent.isdecimal() else 0.0,
        given.product(known) if role == "product" else known,
    )
