"""A restriction on the form of single operators, and how a list of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View

FLOATS = ("float", "float16", "bfloat16", "double")


@dataclass(frozen=True)
class Form:
    """A row: for these operators, ``broken(node, view)`` says what is wrong, or nothing.

    Attributes:
        ops: the operators. broken: the question. hint: what mends it.
        families: engines it holds for. source: where that is known from.
        lifted: the TensorRT release that lifted it; empty where none has. mend: as a Finding's.
    """

    ops: tuple[str, ...]
    broken: Callable[[Node, View], str]
    hint: str
    families: tuple[str, ...] = ("tensorrt", "tensorrt-rtx")
    source: str = "onnx-tensorrt docs/operators.md, restrictions; measured with tensorrt_rtx 1.7.1"
    lifted: tuple[int, ...] = ()
    mend: str = ""


def attribute(name: str, allowed: tuple[object, ...], default: object) -> Callable[[Node, View], str]:
    """A question: is this attribute one of the values that are allowed?"""

    def broken(node: Node, view: View) -> str:
        value = node.attributes.get(name, default)
        return "" if value in allowed else f"{node.op} with {name} = {value}"

    return broken


def without(*names: str) -> Callable[[Node, View], str]:
    """A question: are these attributes absent?"""

    def broken(node: Node, view: View) -> str:
        given = [name for name in names if name in node.attributes]
        return f"{node.op} with {', '.join(given)}" if given else ""

    return broken


def uneven_split(node: Node, view: View) -> str:
    """A question: does Split by a number leave its last part empty?"""
    parts, shape = node.attributes.get("num_outputs"), view.shape_of(node.input(0))
    size = shape[node.attributes.get("axis", 0)] if shape else None
    if not parts or not isinstance(size, int):
        return ""
    return f"Split of {size} into {parts}, whose last part is empty" if -(-size // parts) * (parts - 1) > size else ""


def volume(node: Node, view: View) -> str:
    """A question: is what is sampled three-dimensional?"""
    return f"{node.op} in three dimensions" if len(view.shape_of(node.input(0)) or ()) == 5 else ""


def float_modulo(node: Node, view: View) -> str:
    """A question: is a remainder of floats asked for as of integers?"""
    kind = view.type_of(node.input(0))
    return f"Mod of {kind.upper()} without fmod" if kind in FLOATS and not node.attributes.get("fmod") else ""


REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
WAYS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
"""Coordinates of Resize that engines know."""


def ask(forms: Sequence[Form], view: View, target: Target) -> Iterator[Found]:
    """Every row against every node that it is about."""
    engine = target.engine
    for node in view.nodes:
        for form in forms if node.standard else ():
            lifted = engine.family == "tensorrt" and form.lifted and engine.at_least(*form.lifted)
            if node.op not in form.ops or engine.family not in form.families or lifted:
                continue
            if what := form.broken(node, view):
                reason = f"{what}, which {engine.title} does not read"
                yield Found(node.name, reason, form.hint, form.mend, form.source, node.module)
