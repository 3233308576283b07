"""constants: inputs that must be known when the engine is built are stored in the file.

Axes of reductions, a quantizer's zero point, the axis of a cumulative sum: an engine plans with their values, so what
is computed while it runs, or given by the caller, cannot take their place.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Engine, Found, Target
from edgeattn.capabilities._view import Node, View

_NAMES = {
    **{(f"Reduce{kind}", 1): "axes" for kind in ("Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    **{(f"Reduce{kind}", 1): "axes" for kind in ("L1", "L2", "LogSum", "LogSumExp")},
    **{(op, 1): "axes" for op in ("Squeeze", "Unsqueeze")},
    **{(op, 1): "scale" for op in ("QuantizeLinear", "DequantizeLinear")},
    **{(op, 2): "zero point" for op in ("QuantizeLinear", "DequantizeLinear")},
    ("CumSum", 1): "axis",
    ("TopK", 1): "k",
    ("OneHot", 1): "depth",
    ("Slice", 3): "axes",
    ("Pad", 3): "axes",
    ("Dropout", 2): "training_mode",
    ("STFT", 1): "frame_step",
    ("STFT", 2): "window",
}


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Inputs by their place that are not in the file."""
    engine = target.engine
    for node in view.nodes:
        for place in engine.constants.value.get(node.op, ()) if node.standard else ():
            name = node.input(place)
            if name and not _enough(view, node, name, engine):
                what = _NAMES.get((node.op, place), f"input {place}")
                reason = f"the {what} of {node.op} is computed or given while it runs; {engine.title} needs it stored"
                known = view.known(name)
                hint = "edgeattn rewrite --only fold_constants" if known else "make it a constant and export again"
                mend = "rewrite:fold_constants" if known else ""
                yield Found(node.name, reason, hint, mend, engine.constants.source, node.module)


def _enough(view: View, node: Node, name: str, engine: Engine) -> bool:
    """Whether the engine finds the value of an input that it plans with."""
    if _NAMES.get((node.op, 2)) == "zero point" and name == node.input(2) and view.type_of(name) in engine.unread.value:
        return True
    if node.op in engine.folded.value:
        return view.known(name)
    if node.op in engine.direct.value and view.behind_identity(name):
        return False
    return view.stored(name, ("Identity", "Cast") if node.op in engine.cast.value else ("Identity",))


CHECK = find
