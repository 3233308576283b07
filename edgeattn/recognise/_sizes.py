"""Shapes that ONNX's inference leaves open, above all behind Reshapes whose target is computed from other shapes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import onnx

    from edgeattn.recognise._graph import Dims, Graph

Size: TypeAlias = "int | str"
_LONGEST = 16  # entries of a vector of sizes
_ALIKE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Where", "Max", "Min", "Sum", "Mod", "And", "Or", "Equal", "Greater", "Less"}
    | {"Softmax", "LogSoftmax", "Relu", "Tanh", "Sigmoid", "Exp", "Log", "Sqrt", "Neg", "Abs", "Erf", "Reciprocal"}
    | {"Identity", "Cast", "Dropout", "Clip", "QuantizeLinear", "DequantizeLinear", "IsNaN", "Not", "Gelu"}
)
_SCALARS: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "Max": max,
    "Min": min,
}


class Sizes:
    """Shapes and vectors of sizes, filled in graph order over what is known already."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Dims] = {}
        self.vectors: dict[str, list[Size]] = {}

    def fill(self) -> dict[str, Dims]:
        """The shapes that inference did not give, or gave less of."""
        for node in self.graph.nodes:
            try:
                self._visit(node)
            except (IndexError, ValueError, TypeError, KeyError, ZeroDivisionError, OverflowError):
                continue  # the node breaks its operator's rules: nothing is known behind it
        return self.shapes

    def dims(self, name: str) -> Dims | None:
        """The shape of a value so far."""
        return self.shapes.get(name) or self.graph.inferred(name)

    def vector(self, name: str) -> list[Size] | None:
        """A value that holds sizes, None where it does not or they are unknown."""
        if name in self.vectors:
            return self.vectors[name]
        shape = self.graph.inferred(name)
        known = math.prod(n for n in shape or () if isinstance(n, int))
        if not self.graph.is_constant(name) or known > _LONGEST:
            return None
        array = self.graph.array(name)
        if array is None or array.dtype.kind not in "iu" or array.size > _LONGEST:
            return None
        found: list[Size] = [int(n) for n in array.reshape(-1)]
        self.vectors[name] = found
        return found

    def _visit(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        if self.graph.level(name) < 2:
            made = self._vector(node)
            if made is not None and len(made) <= _LONGEST:
                self.vectors[name] = made
        before = self.graph.inferred(name)
        if before is not None and not any(_is_open(n) for n in before):
            return
        shape = self._shape(node)
        if shape is not None and (before is None or len(before) == len(shape)):
            self.shapes[name] = shape if before is None else tuple(
                b if not _is_open(b) else a for a, b in zip(shape, before, strict=True)
            )  # fmt: skip
            if node.op_type == "Split":
                self.shapes.update((n, self.shapes[name]) for n in node.output[1:])

    def _vector(self, node: onnx.NodeProto) -> list[Size] | None:
        op, given = node.op_type, self.graph.attributes(node)
        if op == "Shape":
            shape = self.dims(node.input[0])
            return None if shape is None else list(shape)[given.get("start", 0) : given.get("end", len(shape))]
        parts = [self.vector(n) for n in node.input]
        if any(p is None for p in parts) or not parts:
            return None
        known = [p for p in parts if p is not None]
        if op in ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"):
            return known[0]
        if op == "Concat":
            return [n for p in known for n in p]
        if op == "Gather" and not given.get("axis", 0):
            return [known[0][i] for i in known[1] if isinstance(i, int)]
        if op == "Slice":
            ends = [p[0] for p in (known[1], known[2], known[4] if len(known) > 4 else [1])]
            numbers = [n for n in ends if isinstance(n, int)]
            return known[0][slice(*numbers)] if len(numbers) == 3 else None
        if op in _SCALARS and len(known) == 2:
            return [_combined(op, a, b) for a, b in zip(*_stretched(*known), strict=True)]
        return None

    def _shape(self, node: onnx.NodeProto) -> Dims | None:
        op, given = node.op_type, self.graph.attributes(node)
        shapes = [self.dims(n) for n in node.input if n]
        first = shapes[0] if shapes else None
        if op == "Reshape":
            return self._reshaped(node, first)
        if op == "Expand":
            target = self.vector(node.input[1])
            return None if target is None or first is None else _broadcast([first, tuple(target)])
        if first is None:
            return None
        if op == "Transpose":
            return tuple(first[p] for p in given.get("perm", range(len(first))[::-1]))
        if op == "Unsqueeze":
            axes = self._axes(node)
            total = len(first) + len(axes)
            rest, at = iter(first), {a % total for a in axes}
            return tuple(1 if i in at else next(rest) for i in range(total))
        if op == "Squeeze":
            at = {a % len(first) for a in self._axes(node)}
            return tuple(n for i, n in enumerate(first) if i not in at)
        if op in _ALIKE:
            return None if any(s is None for s in shapes) else _broadcast([s for s in shapes if s is not None])
        if op == "MatMul" and len(shapes) == 2 and shapes[1] is not None and min(len(first), len(shapes[1])) > 1:
            return (*_broadcast([first[:-2], shapes[1][:-2]]), first[-2], shapes[1][-1])
        return self._in_parts(node, first, shapes)

    def _in_parts(self, node: onnx.NodeProto, first: Dims, shapes: Sequence[Dims | None]) -> Dims | None:
        """Behind Concat, Split, Slice and Gather, which change one dimension."""
        op, axis = node.op_type, self.graph.attributes(node).get("axis", 0)
        made = list(first)
        if op == "Concat":
            sizes = [s[axis] for s in shapes if s is not None]
            whole = len(sizes) == len(node.input) and all(isinstance(n, int) for n in sizes)
            made[axis] = sum(n for n in sizes if isinstance(n, int)) if whole else _fresh(node)
        elif op == "Split":
            size = made[axis]
            made[axis] = size // len(node.output) if isinstance(size, int) else _fresh(node)
        elif op == "Gather":
            index = self.dims(node.input[1])
            if index is None:
                return None
            made[axis : axis % len(made) + 1] = index
        elif op == "Slice":
            self._sliced(node, made)
        else:
            return None
        return tuple(made)

    def _sliced(self, node: onnx.NodeProto, made: list[Size]) -> None:
        starts, ends = self.vector(node.input[1]), self.vector(node.input[2])
        axes = self.vector(node.input[3]) if len(node.input) > 3 and node.input[3] else list(range(len(made)))
        steps = self.vector(node.input[4]) if len(node.input) > 4 and node.input[4] else None
        for i, axis in enumerate(axes or []):
            size = made[int(axis)]
            given = (starts[i], ends[i], steps[i] if steps else 1) if starts and ends else ()
            numbers = [n for n in given if isinstance(n, int)]
            known = isinstance(size, int) and len(numbers) == 3
            made[int(axis)] = len(range(int(size))[slice(*numbers)]) if known else _fresh(node)

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        found = self.graph.axes(node)
        if found is None:
            raise ValueError("axes that are computed")
        return found

    def _reshaped(self, node: onnx.NodeProto, first: Dims | None) -> Dims | None:
        target = self.vector(node.input[1])
        if target is None:
            return None
        made = [first[i] if n == 0 and first is not None else n for i, n in enumerate(target)]
        if -1 in made:
            at = made.index(-1)
            rest = made[:at] + made[at + 1 :]
            made[at] = _rest(node, first, rest)
        return tuple(made)


def _rest(node: onnx.NodeProto, first: Dims | None, others: Sequence[Size]) -> Size:
    """What is left for a dimension of -1."""
    if first is None:
        return _fresh(node)
    ours, theirs = (Counter(n for n in sizes if isinstance(n, str)) for sizes in (first, others))
    total, taken = (math.prod(n for n in sizes if isinstance(n, int)) for sizes in (first, others))
    left = ours - theirs
    if theirs - ours or not taken or total % taken:
        return _fresh(node)
    symbols = list(left.elements())
    if not symbols:
        return total // taken
    return symbols[0] if len(symbols) == 1 and total == taken else _fresh(node)


def _fresh(node: onnx.NodeProto) -> str:
    return f"?{node.output[0]}"


def _is_open(size: Size) -> bool:
    return isinstance(size, str) and (size.startswith(("unk__", "?")) or not size)


def _stretched(a: list[Size], b: list[Size]) -> tuple[list[Size], list[Size]]:
    return (a * len(b) if len(a) == 1 else a), (b * len(a) if len(b) == 1 else b)


def _combined(op: str, a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return _SCALARS[op](a, b)
    if (op, b) in (("Mul", 1), ("Div", 1), ("Add", 0), ("Sub", 0)):
        return a
    return b if (op, a) in (("Mul", 1), ("Add", 0)) else f"?{op}({a}, {b})"


def _broadcast(shapes: Sequence[Dims]) -> Dims:
    """The shape of several together; a number above one decides, then a symbol."""
    made: list[Size] = []
    for back in range(max(map(len, shapes), default=0), 0, -1):
        found = [s[-back] for s in shapes if len(s) >= back]
        wide = [n for n in found if n != 1]
        made.append(next((n for n in wide if isinstance(n, int)), wide[0] if wide else 1))
    return tuple(made)
