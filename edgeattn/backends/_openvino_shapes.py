"""Shapes that a device does not take, and which flags mend them: an NPU plans its memory for numbers, once.

(docs.openvino.ai, NPU device: only models with static shapes are supported)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeattn.backends import Options, Refusal
from edgeattn.backends._openvino_buckets import lengths
from edgeattn.capabilities._openvino_names import is_named
from edgeattn.graphs import input_specs
from edgeattn.program import Program

if TYPE_CHECKING:
    import onnx

_IN_A_RECIPE = "in a recipe, rewrite.fix and buckets"


def not_static(program: Program, options: Options) -> list[Refusal]:
    """Dynamic dimensions where the device takes none, and those that buckets cannot stand for."""
    return [refusal for graph, model in program.graphs.items() for refusal in _refusals(graph, model, options)]


def _refusals(graph: str, model: onnx.ModelProto, options: Options) -> Iterator[Refusal]:
    sized, batches = list(lengths(model)), _batches(model)
    if options.buckets and len(sized) > 1:
        why = f"buckets stand for one dynamic length, and there are {len(sized)}: {', '.join(sized)}"
        yield Refusal(graph, "", why, f"fix the others: {' '.join(f'--fix {d}=N' for d in sized[1:])}")
    elif is_named("npu", options.device) and (batches or (sized and not options.buckets)):
        mended = (
            [] if options.buckets else ["--buckets 16,32,64"] if len(sized) == 1 else [f"--fix {d}=N" for d in sized]
        )
        named = ", ".join([*batches, *([] if options.buckets else sized)])
        flags = " ".join([*(f"--fix {d}=1" for d in batches), *mended])
        yield Refusal(
            graph, "", f"an NPU takes static shapes, and {named} is dynamic", f"give {flags} ({_IN_A_RECIPE})"
        )


def _batches(model: onnx.ModelProto) -> list[str]:
    """Dynamic first axes, and others that are called batch, as ``--fix`` names them."""
    found = [
        d if d not in ("", "?") else f"{spec.name}:{axis}"
        for spec in input_specs(model)
        for axis, d in enumerate(spec.shape)
        if isinstance(d, str) and (axis == 0 or d == "batch")
    ]
    return list(dict.fromkeys(found))
