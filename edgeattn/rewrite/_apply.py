"""Running one rule over a program until it finds nothing more."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeattn.phase import native
from edgeattn.rewrite import _sizes
from edgeattn.rewrite._build import Build
from edgeattn.rewrite._rule import GraphRule, Match, Miss, Outcome, ProgramRule, Rule, View

if TYPE_CHECKING:
    from edgeattn.program import Program

MAX_FIRES = 10_000  # a rule that fires more often than this undoes its own work
BIG_BYTES = 1024  # initializers above this size play no part in shape inference


def apply(rule: Rule, program: Program) -> Outcome:
    """The program after ``rule`` fired wherever it matches; ``program`` itself stays as it is."""
    if isinstance(rule, ProgramRule):
        return rule.apply(program)
    assert isinstance(rule, GraphRule)
    count, misses, graphs = 0, [], dict(program.graphs)
    for name, proto in program.graphs.items():
        if not _may_match(rule, proto):
            continue
        model = ir.serde.deserialize_model(proto)
        fired, missed = _exhaust(rule, model, name)
        misses += missed
        if fired:
            count += fired
            graphs[name] = finish(model)
    return Outcome(replace(program, graphs=graphs) if count else program, count, tuple(misses))


def find_misses(rule: GraphRule, program: Program) -> list[Miss]:
    """Where ``rule`` looked at ``program`` and said no."""
    found = []
    for name, proto in program.graphs.items():
        model = ir.serde.deserialize_model(infer_shapes(proto))
        view = _view_of(model, name)
        answers = [(node, rule.match(node, view)) for node in _anchors(rule, model)]
        found += [_located(answer, node, name) for node, answer in answers if isinstance(answer, Miss)]
    return found


def finish(model: ir.Model) -> onnx.ModelProto:
    """Drop what nothing reads any more, serialise, and infer shapes anew; raises what shape inference raises."""
    passes.RemoveUnusedNodesPass()(model)
    return _reinfer(ir.serde.serialize_model(model))


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with ``value_info`` inferred anew."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return _reinfer(copy)


def _reinfer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace ``value_info`` in place; the weights' bytes are not touched."""
    bare = skeleton(proto)
    for value in bare.graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):  # a guess of an earlier inference; the graph may tell more now
                dim.ClearField("dim_param")
    with native("ONNX", "inferring shapes"):
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    known = {v.name for v in (*proto.graph.input, *proto.graph.output)} | {t.name for t in proto.graph.initializer}
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(v for v in inferred.graph.value_info if v.name not in known)
    return proto


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its large weights, which become inputs: what checks and shape inference need, and cheap."""
    graph = proto.graph
    bare = onnx.ModelProto(ir_version=max(proto.ir_version, 4), producer_name=proto.producer_name)
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    bare.graph.name = graph.name or "main"
    bare.graph.node.extend(graph.node)
    bare.graph.input.extend(graph.input)
    bare.graph.output.extend(graph.output)
    bare.graph.value_info.extend(graph.value_info)
    bare.graph.sparse_initializer.extend(graph.sparse_initializer)
    inputs = {v.name for v in graph.input}
    for tensor in graph.initializer:
        if _size(tensor) <= BIG_BYTES:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def _exhaust(rule: GraphRule, model: ir.Model, name: str) -> tuple[int, list[Miss]]:
    """Sweep over the anchors until a sweep changes nothing; the misses are those of the last sweep."""
    fired, view = 0, _view_of(model, name)
    if not rule.opsets[0] <= view.opset <= rule.opsets[1]:
        return 0, [Miss(f"opset {view.opset} is outside {rule.opsets[0]} to {rule.opsets[1]}", name, 0, graph=name)]
    while True:
        before, misses, view = fired, [], _view_of(model, name)
        for node in list(_anchors(rule, model)):
            if node.graph is None or not _alive(node):
                continue
            answer = rule.match(node, view)
            if isinstance(answer, Match):
                rule.rewrite(answer, Build(rule.name, answer))
                fired += 1
            elif answer is not None:
                misses.append(_located(answer, node, name))
        if fired == before:
            return fired, misses
        if fired > MAX_FIRES:
            raise RuntimeError(f"the rule did not settle after {fired} rewrites")
        passes.RemoveUnusedNodesPass()(model)


def _alive(node: ir.Node) -> bool:
    return any(o.uses() or o.is_graph_output() for o in node.outputs)


def _anchors(rule: GraphRule, model: ir.Model) -> Iterator[ir.Node]:
    for graph in model.graphs():
        for node in graph:
            if node.domain == "" and node.op_type in rule.anchors:
                yield node


def _may_match(rule: GraphRule, proto: onnx.ModelProto) -> bool:
    """Cheap look before the graph is converted; graphs with subgraphs or functions are always converted."""
    return any(
        node.op_type in rule.anchors or any(a.HasField("g") for a in node.attribute) for node in proto.graph.node
    )


def _view_of(model: ir.Model, name: str) -> View:
    opset = model.opset_imports.get("", 0)
    samples = functools.cache(lambda: _sizes.sampled(model.graph, opset))
    return View(name, opset, model.producer_name or "", samples)


def _located(answer: Miss, node: ir.Node, graph: str) -> Miss:
    return replace(answer, anchor=node.name or node.outputs[0].name or node.op_type, graph=graph)


def _size(tensor: onnx.TensorProto) -> int:
    if tensor.raw_data:
        return len(tensor.raw_data)
    count = 1
    for d in tensor.dims:
        count *= d
    return 8 * count
