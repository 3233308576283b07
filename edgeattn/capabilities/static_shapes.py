"""static_shapes: every input has a number for each dimension, where the engine plans for one size.

An NPU takes static shapes only; TensorRT takes dynamic ones with a profile, but no input of unknown rank.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Engine, Found, Target
from edgeattn.capabilities._view import View

_BY_DATA = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
_RANK = "measured with openvino 2026.4.1, which refuses it, and tensorrt_rtx 1.7.1, which takes it for a scalar"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Inputs of unknown rank, and dynamic dimensions for an engine that takes none."""
    engine = target.engine
    for value in view.inputs:
        shape = view.shape_of(value.name)
        if shape is None and view.type_of(value.name) not in ("", "sequence", "optional", "map"):
            if engine.family != "onnxruntime":
                reason = f"input '{value.name}' has no rank"
                yield Found("", reason, f"give its shape when exporting: --shape {value.name}=1x3x224x224", "", _RANK)
        elif shape and engine.static.value and (open_ := [str(d) for d in shape if not isinstance(d, int)]):
            named = ", ".join(open_)
            hint = " ".join(
                f"--fix {d if d != '?' else f'{value.name}:{shape.index(d)}'}=N" for d in dict.fromkeys(open_)
            )
            reason = f"input '{value.name}' has dynamic dimensions: {named}"
            yield Found("", reason, f"edgeattn rewrite {hint}", "shapes", engine.static.source)
    if engine.static.value:
        yield from _by_data(view, engine)


def _by_data(view: View, engine: Engine) -> Iterator[Found]:
    """Operators whose output is as large as the data says."""
    for node in view.nodes:
        counted = node.op != "Loop" or view.known(node.input(0))
        if node.standard and (node.op in _BY_DATA or not counted):
            reason = f"how much {node.op} gives is known only while it runs; {engine.title} takes static shapes only"
            hint = "use a mask of fixed size, or run this part elsewhere"
            yield Found(node.name, reason, hint, "", engine.static.source, node.module)


CHECK = find
