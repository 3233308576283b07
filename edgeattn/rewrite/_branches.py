"""An If whose condition is known, replaced by the branch it takes: exporters write one for every optional squeeze."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from edgeattn.rewrite import _proto


def inline_known(model: onnx.ModelProto) -> int:
    """Replace every If with a constant condition, in place and in nested graphs too; how many there were."""
    return _inline(model.graph, {}, _proto.value_names(model.graph))


def _inline(graph: onnx.GraphProto, outside: Mapping[str, bool], taken: set[str]) -> int:
    known = {**outside, **_flags(graph)}
    count, nodes = 0, []
    for node in graph.node:
        if node.op_type == "If" and node.domain in ("", "ai.onnx") and node.input[0] in known:
            name = "then_branch" if known[node.input[0]] else "else_branch"
            branch = next(a.g for a in node.attribute if a.name == name)
            nodes += _taken_branch(branch, node, graph, taken)
            count += 1
        else:
            count += sum(_inline(inner, known, taken) for inner in _proto.subgraphs(node))
            nodes.append(node)
    if count:
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return count


def _flags(graph: onnx.GraphProto) -> dict[str, bool]:
    """Single boolean constants: initializers that no caller can override, and Constant nodes."""
    inputs = {v.name for v in graph.input}
    found = {t.name: t for t in graph.initializer if t.name not in inputs}
    found |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    flags = {name: t for name, t in found.items() if t.data_type == onnx.TensorProto.BOOL}
    arrays = {name: numpy_helper.to_array(t) for name, t in flags.items() if len(t.dims) < 2}
    return {name: bool(array.reshape(-1)[0]) for name, array in arrays.items() if array.size == 1}


def _taken_branch(
    branch: onnx.GraphProto, node: onnx.NodeProto, graph: onnx.GraphProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """The branch's nodes, giving what the If gave; two branches may have used one name, so each gets its own."""
    write = _proto.Writer("fold_constants", node.name or node.output[0], taken)
    made = {o for n in branch.node for o in n.output if o} | {t.name for t in branch.initializer}
    names = {name: write.fresh(name) for name in sorted(made)}
    body = _proto.renamed(branch, names)
    graph.initializer.extend(body.initializer)
    for value, output in zip(body.output, node.output, strict=True):
        write.op("Identity", value.name, outputs=[output])
    return [*body.node, *write.nodes]
