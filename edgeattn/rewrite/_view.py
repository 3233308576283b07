"""Questions that rules ask of a graph; nothing here changes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeattn import outside

Dim: TypeAlias = int | str | None

BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "Where", "And", "Or", "Xor"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)


def const(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The array behind an initializer or Constant node; None for anything computed or fed.

    An initializer that is a graph input too may be overridden by the caller, so it is not a constant.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor is not None:
        return None if tensor.dtype == ir.DataType.STRING else _array(tensor)
    node = made_by(value, "Constant")
    return None if node is None else _constant(node)


def _array(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    """A tensor's values; those of one that lies in a file are mapped, if it is the file that was checked."""
    stamp = tensor.metadata_props.get(outside.STAMP) if isinstance(tensor, ir.ExternalTensor) else None
    if stamp is None:
        return tensor.numpy()
    assert isinstance(tensor, ir.ExternalTensor)
    place = (str(tensor.path), tensor.offset or 0, tensor.nbytes, stamp)
    return outside.mapped(*place, tensor.dtype.numpy(), tensor.shape.numpy())


def _constant(node: ir.Node) -> np.ndarray[Any, Any] | None:
    """A Constant node's array, read without naming its tensor: that would edit the model it was read from."""
    ((kind, found),) = node.attributes.items()
    if kind == "value":
        array: np.ndarray[Any, Any] = found.value.numpy()
        return array
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.array(found.value, dtype[kind]) if kind in dtype else None


def scalar(value: ir.Value | None) -> float | None:
    """The number behind a constant whose elements are all the same; None otherwise."""
    array = const(value)
    if array is None or array.size == 0 or not (array == array.flat[0]).all():
        return None
    return float(array.flat[0])


def made_by(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that computes ``value`` if it is one of the standard operators ``ops``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in ops else None


def attr(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's value, or the operator's default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """Dimensions as ints, symbol names, or None where unknown; None when even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, None when unknown."""
    shape = dims(value)
    return None if shape is None else len(shape)


def axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a Reduce, Squeeze or Unsqueeze, sorted and counted from the front; None when not constant.

    Both spellings are read: the attribute of older opsets and the input of newer ones.
    """
    raw: Sequence[int] | None = attr(node, "axes")
    if raw is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        array = const(node.inputs[1])
        raw = None if array is None else [int(a) for a in array.reshape(-1)]
    size = rank(node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0])
    if raw is None or (size is None and any(a < 0 for a in raw)):
        return None
    return tuple(sorted(a + (size or 0) if a < 0 else a for a in raw))


def used_once(value: ir.Value) -> bool:
    """Whether exactly one node reads the value and no graph hands it out."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def same(a: ir.Value | None, b: ir.Value | None) -> bool:
    """The same value, or two constants with equal contents."""
    if a is b:
        return True
    x, y = const(a), const(b)
    return x is not None and y is not None and x.dtype == y.dtype and x.shape == y.shape and bool((x == y).all())


def covers(parts: Sequence[tuple[Dim, ...] | None], target: tuple[Dim, ...] | None) -> bool:
    """Whether broadcasting ``parts`` against each other is proven to give ``target``."""
    if target is None or any(p is None or len(p) > len(target) for p in parts):
        return False
    for back in range(1, len(target) + 1):
        want = target[-back]
        have = [p[-back] for p in parts if p is not None and len(p) >= back]
        if want is None or want not in have or any(d != want and d != 1 for d in have):
            return False
    return any(p is not None and len(p) == len(target) for p in parts)


def is_gate(shape: tuple[Dim, ...] | None) -> bool:
    """Whether a shape is ``(N, C, 1, 1)`` with a known C."""
    return shape is not None and len(shape) == 4 and isinstance(shape[1], int) and shape[2:] == (1, 1)


def broadcast(shapes: Sequence[tuple[Dim, ...] | None]) -> tuple[Dim, ...] | None:
    """The shape that broadcasting gives; None for a dimension that cannot be told."""
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    size = max((len(shape) for shape in known), default=0)
    return tuple(_merged({shape[-back] for shape in known if len(shape) >= back}) for back in range(size, 0, -1))


def expanded(node: ir.Node) -> tuple[Dim, ...] | None:
    """The shape after an Expand or Tile, told from its operands where inference alone cannot."""
    small, wanted = dims(node.inputs[0]), const(node.inputs[1])
    shape_of = made_by(node.inputs[1], "Shape")
    if small is None:
        return dims(node.outputs[0])
    if node.op_type == "Tile":
        big = dims(node.outputs[0])
        if (
            wanted is None
            and big is not None
            and all(d == 1 or (d is not None and d == b) for d, b in zip(small, big, strict=True))
        ):
            return big
        if wanted is None or any(r != 1 and d != 1 for r, d in zip(wanted, small, strict=True)):
            return None
        return tuple(int(r) if d == 1 else d for r, d in zip(wanted, small, strict=True))
    if wanted is not None:
        return broadcast([small, tuple(int(d) for d in wanted)])
    if shape_of is not None and not attr(shape_of, "start", 0) and attr(shape_of, "end") is None:
        return broadcast([small, dims(shape_of.inputs[0])])
    return dims(node.outputs[0])


def _merged(found: set[Dim]) -> Dim:
    wide = found - {1}
    if not wide:
        return 1
    fixed = [d for d in wide if isinstance(d, int)]
    if fixed:  # what broadcasts against a number above 1 is that number, or 1
        return fixed[0] if len(fixed) == 1 else None
    return wide.pop() if len(wide) == 1 else None
