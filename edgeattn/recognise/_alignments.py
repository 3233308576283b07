"""Alignments: a Softmax whose weights multiply a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.recognise._attention import Attention
from edgeattn.recognise._walk import QDQ, RESHAPING

if TYPE_CHECKING:
    import onnx

    from edgeattn.graphs import GraphIndex


def alignment(index: GraphIndex, softmax: onnx.NodeProto) -> Attention | None:
    """The alignment whose weights a Softmax gives; None where it weighs no memory by scores."""
    weights = _reaches(index, softmax.output[0], ("MatMul", "Einsum"))
    if weights is None:
        return None
    multiply, weights_name = weights
    memory = next((n for n in multiply.input if n != weights_name), "")
    nodes, additive = [softmax], False
    queue, seen = [softmax.input[0]], {softmax.output[0]}
    scored = False
    while queue:
        name = queue.pop()
        node = index.producer.get(name)
        if node is None or name in seen or index.is_constant(name) or len(nodes) > 24:
            continue
        seen.add(name)
        nodes.append(node)
        if node.op_type == "Tanh":
            additive = scored = True
        elif node.op_type in ("MatMul", "Einsum", "Gemm", "ReduceSum") and not _scores_by_vector(index, node):
            scored = True
        elif node.op_type not in ("Shape", "Size"):
            # what a Where chooses by is the mask; local attention computes it with a Tanh that scores nothing
            queue += [n for n in node.input[node.op_type == "Where" :] if n]
    if not scored:
        return None
    return Attention(
        kind="additive" if additive else "multiplicative",
        nodes=frozenset(n.output[0] for n in nodes),
        gate=softmax.output[0],
        features=memory,
        result=multiply.output[0],
    )


def _scores_by_vector(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """A product with a constant vector: the ``v`` of an additive score, behind which the Tanh lies."""
    return any(index.is_constant(name) for name in node.input[1:])


def _reaches(index: GraphIndex, name: str, targets: tuple[str, ...]) -> tuple[onnx.NodeProto, str] | None:
    """The first target node a value reaches through masking and reshaping, with the operand it arrives as."""
    queue, steps = [name], 0
    while queue and steps < 16:
        name, steps = queue.pop(0), steps + 1
        for node in index.consumers.get(name, []):
            if node.op_type in targets:
                return node, name
            if node.op_type in (*RESHAPING, *QDQ, "Where", "Mul"):
                queue.append(node.output[0])
    return None
