"""fuse_layernorm: a layer normalisation spelled out becomes LayerNormalization.

What: subtracting the mean, dividing by the square root of the mean square plus epsilon, and the scale and bias behind
it, in the spellings of exporters: Pow or Mul for the square, Div, Reciprocal or Pow(-0.5) for the quotient, the
difference computed once or twice, axes as attribute or input, over the last axis or the last few.

Why: nine passes over the tensor become one, and in FP16 the square overflows from 256 on, while LayerNormalization adds
in FP32. Quantizers and engines know the operator by its name.

Before: c = x − ReduceMean(x);  y = c / Sqrt(ReduceMean(c²) + ε) · γ + β
After:  y = LayerNormalization(x, γ, β, epsilon=ε)

Safe when: both means are over the same last axes, of a known size; ε, γ and β are constants; nothing reads the values
in between; opset 17 or later; not in float64, for which the operator is allowed to compute in float32. The same up to
rounding. A scale or bias of another shape stays as it is.
Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, equation 3; ONNX LayerNormalization-17.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, const, dims, made_by, rank, scalar, used_once

if TYPE_CHECKING:
    import onnx

    from edgeattn.rewrite._build import Build

SINCE = 17


@dataclass(frozen=True)
class Norm:
    """A normalisation without its scale and bias."""

    x: ir.Value
    axis: int  # first normalised axis, from the front
    epsilon: float
    nodes: tuple[ir.Node, ...]
    scale: np.ndarray[Any, Any] | None = None
    bias: np.ndarray[Any, Any] | None = None


class FuseLayernorm(GraphRule):
    """Mean, difference, square, mean, root, quotient, scale and bias as one operator."""

    name = "fuse_layernorm"
    exactness = ALLCLOSE
    anchors = ("Div", "Mul")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the quotient; scale and bias are looked for behind it."""
        found = _quotient(node)
        if not isinstance(found, Norm):
            return found
        if view.opset < SINCE:
            reason = f"LayerNormalization exists from opset {SINCE} on, this graph has {view.opset}"
            return miss(f"{reason}: export it with --opset 18", node, 5)
        if found.x.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            return miss("LayerNormalization may compute this type in float32", node, 5)
        shape = dims(found.x)
        sizes = [] if shape is None else list(shape[found.axis :])
        if not sizes or not all(isinstance(d, int) for d in sizes):
            return miss(f"the normalised sizes {sizes} are not known", node, 5)
        if (outsider := _outside_reader(found.nodes, node)) is not None:
            return miss("it reads a value in between", outsider, 5)
        normalised = tuple(d for d in sizes if isinstance(d, int))
        if found.scale is not None:
            found = replace(found, scale=_fitting(found.scale, found.x, normalised))
            if found.scale is None:
                return miss("the scale on its difference is not of the normalised size", node, 5)
        found, last = _with_affine(found, node, normalised)
        return Match(last, found.nodes, {"norm": found, "sizes": sizes})

    def rewrite(self, match: Match, build: Build) -> None:
        """One LayerNormalization; ones where there is no scale."""
        norm: Norm = match.parts["norm"]
        old = match.anchor.outputs[0]
        assert norm.x.dtype is not None
        dtype = norm.x.dtype.numpy()
        scale = np.ones(match.parts["sizes"], dtype) if norm.scale is None else norm.scale
        operands = [norm.x, build.const("layernorm_scale", scale)]
        if norm.bias is not None:
            operands.append(build.const("layernorm_bias", norm.bias))
        from_the_back = norm.axis - (rank(norm.x) or 0)
        out = build.op(
            "LayerNormalization", *operands, shape=dims(norm.x), axis=from_the_back, epsilon=norm.epsilon, stash_type=1
        )
        build.replace(old, out)

    def examples(self) -> list[Program]:
        """PyTorch's spelling, TensorFlow's, a difference computed twice, without scale, two axes, the scale first."""
        return as_programs(
            _sample(),
            _sample(square="Mul(c, c)", quotient="r = Reciprocal(s)  n = Mul(c, r)", tail="y = Mul(n, g)"),
            _sample(quotient="c2 = Sub(x, m)  n = Div(c2, s)", tail="z = Mul(g, n)  y = Add(b, z)"),
            _sample(root="Pow(e, half)", tail="z = Mul(n, one_by_d)  y = Add(z, b)"),
            _sample(root="Pow(e, minus_half)", quotient="n = Mul(s, c)", tail="y = Relu(n)"),
            _sample(axes=(2, 1), tail="y = Mul(n, wide)"),
            _sample(quotient="gc = Mul(g, c)  n = Div(gc, s)", tail="y = Add(n, b)"),
        )

    def near_misses(self) -> list[Program]:
        """An old opset, other axes, a middle axis, a fed epsilon, a value read elsewhere, float64, an unknown size."""
        return as_programs(
            _sample(opset=13, axes=None),
            _sample(second_axes=(1, 2)),
            _sample(axes=(1,)),
            _sample(epsilon="fed", inputs=", float fed"),
            _sample(outputs=", float[batch,5,1] s"),
            _sample(dtype="double"),
            _sample(width="w"),
        )

    def workload(self) -> Program:
        """BERT base's: 128 positions of width 768."""
        return Program({"main": _sample(head="(float[1,128,768] x) => (float[1,128,768] y)", size=768)})


def _sample(
    square: str = "Pow(c, two)",
    root: str = "Sqrt(e)",
    quotient: str = "n = Div(c, s)",
    tail: str = "z = Mul(n, g)  y = Add(z, b)",
    axes: tuple[int, ...] | None = (-1,),
    second_axes: tuple[int, ...] = (),
    epsilon: str = "eps",
    inputs: str = "",
    outputs: str = "",
    dtype: str = "float",
    width: str = "8",
    size: int = 8,
    head: str = "",
    opset: int = 18,
) -> onnx.ModelProto:
    head = head or f"({dtype}[batch,5,{width}] x{inputs}) => ({dtype}[batch,5,{width}] y{outputs})"
    old = axes is None
    first, second = (" <axes = [-1]> (x)", " <axes = [-1]> (q)") if old else ("(x, axes)", "(q, axes2)")
    numbers = {"two": 2.0, "half": 0.5, "minus_half": -0.5, "eps": 1e-5, "one_by_d": np.ones((1, size))}
    rng = np.random.default_rng(0)
    numbers |= {name: rng.standard_normal(size) for name in ("g", "b")} | {"wide": rng.standard_normal((5, size))}
    weights: dict[str, Any] = {
        name: np.asarray(n, np.float64 if dtype == "double" else np.float32) for name, n in numbers.items()
    }
    if not old:
        weights |= {"axes": i64(*(axes or ())), "axes2": i64(*(second_axes or axes or ()))}
    body = f"""m = ReduceMean{first}  c = Sub(x, m)  q = {square}  v = ReduceMean{second}
        e = Add(v, {epsilon})  s = {root}  {quotient}  {tail}"""
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return graph(f"{head} {{ {body} }}", opset=opset, **{n: w for n, w in weights.items() if n in words})


def _quotient(node: ir.Node) -> Norm | Miss | None:
    """``c / sqrt(mean(c²) + ε)`` in one of its spellings, ending at ``node``."""
    if node.op_type == "Div":
        root = _root(node.inputs[1], inverse=False)
        return None if root is None else _centred(node, node.inputs[0], root)
    for centred, inverse in (node.inputs, node.inputs[::-1]):
        root = _root(inverse, inverse=True)
        if root is not None:
            return _centred(node, centred, root)
    return None


def _root(value: ir.Value | None, *, inverse: bool) -> tuple[ir.Node, ...] | None:
    """The nodes of a square root, or of one over it, last first."""
    node = made_by(value, "Sqrt", "Pow", "Reciprocal", "Div")
    if node is None:
        return None
    if node.op_type == "Pow":
        return (node,) if scalar(node.inputs[1]) == (-0.5 if inverse else 0.5) else None
    if not inverse:
        return (node,) if node.op_type == "Sqrt" else None
    if node.op_type == "Sqrt" or (node.op_type == "Div" and scalar(node.inputs[0]) != 1.0):
        return None
    below = _root(node.inputs[-1], inverse=False)
    return None if below is None else (node, *below)


def _centred(node: ir.Node, centred: ir.Value | None, root: tuple[ir.Node, ...]) -> Norm | Miss | None:
    """The whole, once the root's argument is a mean square plus epsilon; None where it is something else."""
    total = made_by(root[-1].inputs[0], "Add")
    mean_square, epsilon = _mean_and_epsilon(total)
    square = made_by(mean_square.inputs[0], "Pow", "Mul") if mean_square is not None else None
    scaled, scale, centred = _scaled_before(centred)
    first = _difference(centred)
    if total is None or mean_square is None or square is None or first is None:
        return None
    base = square.inputs[0]
    squared = scalar(square.inputs[1]) == 2.0 if square.op_type == "Pow" else square.inputs[1] is base
    second = _difference(base)
    if not squared or second is None or second[0].inputs[0] is not first[0].inputs[0]:
        return miss("what is squared is not what is divided", square, 2)
    if epsilon is None:
        return miss("what is added to the mean square is not one constant number", total, 3)
    x, means = first[0].inputs[0], {first[1], second[1]}
    assert x is not None
    spans = {axes(n) for n in (*means, mean_square)}
    if len(spans) != 1 or None in spans or not all(attr(n, "keepdims", 1) for n in (*means, mean_square)):
        return miss(f"the means are over axes {sorted(map(str, spans))}, or drop them", mean_square, 4)
    (span,), size = spans, rank(x)
    if not span or size is None or span != tuple(range(span[0], size)):
        return miss(f"axes {span} of {size} are not the last ones", mean_square, 4)
    nodes = (*means, first[0], second[0], square, mean_square, total, *root, *scaled, node)
    return Norm(x, span[0], epsilon, tuple(dict.fromkeys(nodes)), scale)


def _scaled_before(
    value: ir.Value | None,
) -> tuple[tuple[ir.Node, ...], np.ndarray[Any, Any] | None, ir.Value | None]:
    """A difference that was multiplied by a constant already: the Mul, the constant and the difference."""
    mul = made_by(value, "Mul")
    for other, constant in (mul.inputs, mul.inputs[::-1]) if mul is not None else ():
        array = const(constant)
        if mul is not None and array is not None and made_by(other, "Sub") is not None:
            return (mul,), array, other
    return (), None, value


def _mean_and_epsilon(total: ir.Node | None) -> tuple[ir.Node | None, float | None]:
    """The ReduceMean and the number that an Add joins, either way round."""
    for value, other in (total.inputs, total.inputs[::-1]) if total is not None else ():
        mean = made_by(value, "ReduceMean")
        if mean is not None:
            array = const(other)
            return mean, float(array.flat[0]) if array is not None and array.size == 1 else None
    return None, None


def _difference(value: ir.Value | None) -> tuple[ir.Node, ir.Node] | None:
    """``x - mean(x)``: the Sub and the ReduceMean."""
    sub = made_by(value, "Sub")
    mean = made_by(sub.inputs[1], "ReduceMean") if sub is not None else None
    return (sub, mean) if sub is not None and mean is not None and mean.inputs[0] is sub.inputs[0] else None


def _outside_reader(nodes: tuple[ir.Node, ...], last: ir.Node) -> ir.Node | None:
    for node in nodes:
        if node is last:
            continue
        if node.outputs[0].is_graph_output():
            return node
        for reader in node.outputs[0].consumers():
            if reader not in nodes:
                return reader
    return None


def _with_affine(found: Norm, node: ir.Node, sizes: tuple[int, ...]) -> tuple[Norm, ir.Node]:
    """The scale and the bias behind the quotient, where they are constants of the normalised size."""
    mul, scale = _constant_behind(node, "Mul", sizes) if found.scale is None else (None, None)
    if mul is not None:
        found, node = replace(found, scale=scale, nodes=(*found.nodes, mul)), mul
    add, bias = _constant_behind(node, "Add", sizes)
    if add is not None:
        found, node = replace(found, bias=bias, nodes=(*found.nodes, add)), add
    return found, node


def _constant_behind(
    node: ir.Node, op: str, sizes: tuple[int, ...]
) -> tuple[ir.Node | None, np.ndarray[Any, Any] | None]:
    """The only reader of ``node`` if it is an ``op`` with a constant that broadcasts to the normalised size alone."""
    value = node.outputs[0]
    reader = value.consumers()[0] if used_once(value) else None
    if reader is None or reader.op_type != op or reader.domain != "":
        return None, None
    fitting = _fitting(const(next((v for v in reader.inputs if v is not value), None)), value, sizes)
    return (None, None) if fitting is None else (reader, fitting)


def _fitting(
    array: np.ndarray[Any, Any] | None, value: ir.Value, sizes: tuple[int, ...]
) -> np.ndarray[Any, Any] | None:
    """A constant in the normalised size, where it neither varies over other axes nor widens ``value``."""
    if array is None or array.ndim > (rank(value) or 0):
        return None
    outer = max(0, array.ndim - len(sizes))
    inner = array.shape[outer:]
    if any(d != 1 for d in array.shape[:outer]):
        return None
    if any(have not in (1, want) for have, want in zip(inner[::-1], sizes[::-1], strict=False)):
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(inner), sizes))


RULE = FuseLayernorm()
