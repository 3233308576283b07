"""Multi-head attention: heads, groups, who attends to whom, and what hides later positions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn.recognise._attention import Attention
from edgeattn.recognise._graph import COPYING, DATA, LAYOUT, Dims, Graph
from edgeattn.recognise._masking import Path, is_causal
from edgeattn.recognise._scores import Dot
from edgeattn.recognise._sources import origins, projection, root

if TYPE_CHECKING:
    import onnx


def multi_head(graph: Graph, found: Attention, dot: Dot, path: Path) -> Attention | None:
    """The alignment as multi-head attention, with one head perhaps; None where it is Luong's.

    It is multi-head where there is an axis of heads, where the values are projected and not the memory itself, or
    where a sequence attends to itself.
    """
    heads = _count(graph, dot.query, dot.width)
    own = bool(origins(graph, [dot.query]) & (origins(graph, [found.features]) | origins(graph, [dot.key])))
    values, keys = projection(graph, found.features), projection(graph, dot.key)
    apart = values is not None and keys is not None and values.source == keys.source
    axis_of_heads = (graph.rank(dot.query) or 0) > 3 or (heads or 1) > 1
    if dot.bilinear or not (axis_of_heads or own or apart):
        return None
    factors = _factors(graph, dot, path)
    return replace(
        found,
        kind="mha",
        score="dot",
        query=dot.query,
        heads=heads,
        head_width=dot.width,
        groups=_count(graph, dot.key, dot.width) or heads,
        attends="self" if own else "cross",
        causal=is_causal(graph, path.hiding),
        scale=factors,
    )


def _count(graph: Graph, name: str, width: int | None) -> int | None:
    """How many heads an operand of the product has before it is copied: told by the Reshape that splits them, by its
    layer's width, or by its sizes between the first and the last two.
    """
    single = name  # where the heads are not copied yet
    for _ in range(24):
        node = graph.producer.get(name)
        if node is None or not (node.op_type in LAYOUT or _picks_heads(graph, node) or _scales(graph, node)):
            break
        before = next(iter(graph.data_inputs(node)), node.input[0])
        if node.op_type in COPYING or (node.op_type == "Gather" and graph.attributes(node).get("axis", 0) == 1):
            single = before
        made = _split(graph.dims(before), graph.dims(node.output[0]), width) if node.op_type == "Reshape" else None
        if made:
            return made
        name = before
    layer = projection(graph, name)
    if layer is not None and not layer.parted and layer.width and width and layer.layer.op_type != "Conv":
        return layer.width // width if layer.width % width == 0 else None
    return _between(graph, single)


def _split(before: Dims | None, after: Dims | None, width: int | None) -> int | None:
    """Heads of a Reshape that splits the last dimension into heads of this width."""
    if not before or not after or width is None or after[-1] != width or before[-1] == width:
        return None
    whole = before[-1]
    if len(after) > len(before) and isinstance(after[-2], int):
        return after[-2]
    return whole // width if isinstance(whole, int) and whole % width == 0 else None


def _picks_heads(graph: Graph, node: onnx.NodeProto) -> bool:
    """A Gather over the heads or over parts that stand in front, as a copy or a packed matrix has them."""
    return node.op_type == "Gather" and graph.level(node.input[1]) < DATA and graph.level(node.output[0]) == DATA


def _scales(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type in ("Mul", "Div") and graph.operand(node) is not None


def _between(graph: Graph, name: str) -> int | None:
    shape = graph.dims(name)
    if shape is None:
        return None
    if len(shape) < 4:
        return 1
    sizes = [n for n in shape[1:-2] if isinstance(n, int)]
    return math.prod(sizes) if len(sizes) == len(shape) - 3 else None


def _factors(graph: Graph, dot: Dot, path: Path) -> str:
    """Where the scores, the queries or the keys are scaled."""
    query, key = (_is_scaled(graph, n) for n in (dot.query, dot.key))
    if query and key:
        return "both"
    return "query" if query else "keys" if key else "scores" if path.scaled else ""


def _is_scaled(graph: Graph, name: str) -> bool:
    """Whether a value is a product with a number, behind rearrangements."""
    for _ in range(12):
        node = graph.producer.get(name)
        if node is None:
            return False
        if node.op_type in ("Mul", "Div") and len(node.input) == 2:
            pair = graph.operand(node)
            by = pair[1] if pair is not None else ""
            return pair is not None and (graph.number(by) is not None or graph.dims(by) in ((), (1,), None))
        if node.op_type not in LAYOUT or not node.input:
            return False
        name = node.input[0]
    return False


def operator(graph: Graph, node: onnx.NodeProto) -> Attention | None:
    """The Attention operator of opset 23 and later."""
    if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or len(node.input) < 3:
        return None
    query, key, value = node.input[:3]
    given = graph.attributes(node)
    heads, groups = given.get("q_num_heads"), given.get("kv_num_heads")
    shape = graph.dims(query)
    last = shape[-1] if shape else None
    if shape and len(shape) == 4:
        heads = shape[1] if isinstance(shape[1], int) else heads
        before = graph.dims(key)
        groups = before[1] if before and len(before) == 4 and isinstance(before[1], int) else groups
    elif isinstance(last, int) and heads:
        last = last // heads
    masked = len(node.input) > 3 and node.input[3]
    causal = bool(given.get("is_causal", 0)) or bool(masked and is_causal(graph, [node.input[3]]))
    own = origins(graph, [query]) & (origins(graph, [value]) | origins(graph, [key]))
    return Attention(
        kind="mha",
        nodes=frozenset({node.output[0]}),
        gate=node.output[0],
        features=value,
        result=node.output[0],
        score="dot",
        query=query,
        mask=("operator",) if masked and graph.level(node.input[3]) == DATA else (),
        heads=heads,
        head_width=last if isinstance(last, int) else None,
        groups=groups or heads,
        attends="self" if own or root(graph, query) == root(graph, value) else "cross",
        causal=causal,
        scale="operator",
    )
