"""Other ways to write the same graph: names, order, identities, dead nodes, a branch. None changes what it computes."""

from __future__ import annotations

import random

import onnx
from onnx import TensorProto, helper


def renamed(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """Every value and node under another name; inputs and outputs keep theirs."""
    model = _copy(model)
    graph = model.graph
    fixed = {v.name for v in (*graph.input, *graph.output)} | {""}
    inner = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
    numbers = rng.sample(range(10 * len(inner) + 10), len(inner))
    names = {name: f"t/{number}.out:0" for name, number in zip(inner, numbers, strict=True) if name not in fixed}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for i, node in enumerate(graph.node):
        node.name = rng.choice(("", f"unit {i}"))
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return model


def reordered(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """The nodes in another order in which producers still come first."""
    model = _copy(model)
    waiting, ordered = list(model.graph.node), []
    made = {o for n in waiting for o in n.output}
    while waiting:
        ready = [n for n in waiting if not made & set(n.input)]
        node = rng.choice(ready)
        waiting.remove(node)
        made -= set(node.output)
        ordered.append(node)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model


def wrapped(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """Identity nodes in front of some operands, constants among them."""
    model = _copy(model)
    nodes = []
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name and rng.random() < 0.3:
                hop = f"{name}/hop{len(nodes)}"
                nodes.append(helper.make_node("Identity", [name], [hop]))
                node.input[i] = hop
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_dead_nodes(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """Nodes that read inner values and that nobody reads."""
    model = _copy(model)
    floats = [n.output[0] for n in model.graph.node if n.op_type in ("Mul", "Conv", "Sigmoid", "MatMul", "Relu")]
    for i, name in enumerate(rng.sample(floats, min(2, len(floats)))):
        model.graph.node.append(helper.make_node("Neg", [name], [f"dead{i}"]))
    return model


def branched(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """The whole graph inside both branches of an If; weights stay outside."""
    model = _copy(model)
    graph = model.graph
    results = list(graph.output)
    branches = {}
    for branch in ("then_branch", "else_branch"):
        names = {o: f"{branch}/{o}" for n in graph.node for o in n.output if o}
        nodes = [_copy_node(n, names) for n in graph.node]
        outputs = [helper.make_value_info(names[v.name], v.type) for v in results]
        branches[branch] = helper.make_graph(nodes, branch, [], outputs)
    chosen = helper.make_node("If", ["condition"], [v.name for v in results], name="choose", **branches)
    del graph.node[:]
    graph.node.append(chosen)
    graph.input.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    return model


DISGUISES = (renamed, reordered, wrapped, with_dead_nodes)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _copy_node(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in copy.input]
    copy.output[:] = [names.get(name, name) for name in copy.output]
    return copy
