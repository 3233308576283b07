"""Running one rule over a program until it finds nothing more."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeattn import outside
from edgeattn.phase import native
from edgeattn.rewrite import _ranges
from edgeattn.rewrite._build import Build
from edgeattn.rewrite._live import Live, Lives
from edgeattn.rewrite._rule import GraphRule, Match, Miss, Outcome, ProgramRule, Rule
from edgeattn.rewrite._view import const

if TYPE_CHECKING:
    from edgeattn.program import Program

SPILL_BYTES = 1 << 20  # constants above this do not stay in memory where the model's weights do not
BIG_BYTES = 1024  # initializers above this size play no part in shape inference
FIRES_PER_NODE = 8  # a rule that fires more often than this on a graph undoes its own work
NEARBY, FEW = 2, 16  # steps from a new node within which a rule looks again at once, past values with few readers


def apply(rule: Rule, program: Program, lives: Lives | None = None) -> Outcome:
    """The program after ``rule`` fired wherever it matches; ``program`` itself stays as it is.

    Args:
        rule: what to apply. program: what to apply it to.
        lives: models that earlier rules left behind; what this rule makes of them is left there too.
    """
    if isinstance(rule, ProgramRule):
        return rule.apply(program)
    assert isinstance(rule, GraphRule)
    lives = lives or Lives()
    count, misses, graphs = 0, [], dict(program.graphs)
    for name, proto in program.graphs.items():
        live = lives.of(name, proto)
        if not live.ops.intersection(rule.anchors):
            continue
        fired, missed = _exhaust(rule, live)
        misses += missed
        if fired:
            count += fired
            live.settle(finish(live.model))
            graphs[name] = live.proto
    return Outcome(replace(program, graphs=graphs) if count else program, count, tuple(misses))


def count_matches(rule: GraphRule, program: Program, lives: Lives) -> int:
    """How often ``rule`` matches a program as it is; nothing is rewritten."""
    count = 0
    for name, proto in program.graphs.items():
        live = lives.of(name, proto)
        if rule.opsets[0] <= live.opset <= rule.opsets[1]:
            view = live.view
            count += sum(isinstance(rule.match(node, view), Match) for node in live.anchors(rule.anchors))
    return count


def find_misses(rule: GraphRule, program: Program) -> list[Miss]:
    """Where ``rule`` looked at ``program`` and said no."""
    found = []
    for name, proto in program.graphs.items():
        live = Live(name, infer_shapes(proto))
        view = live.view
        answers = [(node, rule.match(node, view)) for node in live.anchors(rule.anchors)]
        found += [_located(answer, node, name) for node, answer in answers if isinstance(answer, Miss)]
    return found


def finish(model: ir.Model) -> onnx.ModelProto:
    """Drop what nothing reads any more, serialise, and infer shapes anew; raises what shape inference raises."""
    passes.RemoveUnusedNodesPass()(model)
    _move_outside(model)
    return _reinfer(ir.serde.serialize_model(model))


def _move_outside(model: ir.Model) -> None:
    """Large constants that a rule made of weights outside go there too: every copy of the graph would copy them."""
    stored = list(model.graph.initializers.values())
    if not any(isinstance(v.const_value, ir.ExternalTensor) for v in stored):
        return
    for value in stored:
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < SPILL_BYTES:
            continue
        array = const(value)
        if array is not None and array.nbytes == tensor.nbytes:  # not packed
            path, length, stamp = outside.place_of(array)
            kept = {**tensor.metadata_props, outside.STAMP: stamp}
            value.const_value = ir.ExternalTensor(
                path,
                0,
                length,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
                metadata_props=kept,
            )


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with ``value_info`` inferred anew."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return _reinfer(copy)


def _reinfer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace ``value_info`` in place; the weights' bytes are not touched."""
    bare = skeleton(proto)
    for value in bare.graph.value_info:  # a guess of an earlier inference; the graph may tell more now
        _forget_guesses(value)
    with native("ONNX", "inferring shapes"):
        inferred = _ranges.infer(bare)
    known = {v.name for v in (*proto.graph.input, *proto.graph.output)} | {t.name for t in proto.graph.initializer}
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(v for v in inferred.graph.value_info if v.name not in known)
    _tell_subgraphs(proto.graph, inferred.graph)
    return proto


def _tell_subgraphs(ours: onnx.GraphProto, inferred: onnx.GraphProto) -> None:
    """What was inferred inside branches and bodies; a guess there would meet those of another inference."""
    for node, told in zip(ours.node, inferred.node, strict=True):
        for attribute, other in zip(node.attribute, told.attribute, strict=True):
            if attribute.HasField("g"):
                del attribute.g.value_info[:]
                attribute.g.value_info.extend(other.g.value_info)
                for value in attribute.g.value_info:
                    _forget_guesses(value)
                _tell_subgraphs(attribute.g, other.g)


def _forget_guesses(value: onnx.ValueInfoProto) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param.startswith("unk__"):
            dim.ClearField("dim_param")


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


def _exhaust(rule: GraphRule, live: Live) -> tuple[int, list[Miss]]:
    """Sweep over the anchors until a sweep changes nothing; the misses are those of the last sweep."""
    if not rule.opsets[0] <= live.opset <= rule.opsets[1]:
        reason = f"opset {live.opset} is outside {rule.opsets[0]} to {rule.opsets[1]}"
        return 0, [Miss(reason, live.name, 0, graph=live.name)]
    total, most = 0, FIRES_PER_NODE * (len(live.proto.graph.node) + 100)
    while True:
        fired, misses = _sweep(rule, live, most - total)
        total += fired
        if not fired:
            return total, misses
        passes.RemoveUnusedNodesPass()(live.model)
        live.changed()


def _sweep(rule: GraphRule, live: Live, most: int) -> tuple[int, list[Miss]]:
    """Once over all anchors; where the rule fires, it looks again nearby, so that chains settle in one sweep."""
    fired, misses, view = 0, [], live.view
    waiting = deque(live.anchors(rule.anchors))
    while waiting:
        node = waiting.popleft()
        if node.graph is None or not _alive(node):
            continue
        answer = rule.match(node, view)
        if isinstance(answer, Match):
            build = Build(rule.name, answer, live.names)
            rule.rewrite(answer, build)
            fired += 1
            if fired > most:
                raise RuntimeError(f"the rule did not settle after {fired} rewrites")
            waiting.extendleft(_anchors_near(build.made, rule.anchors))
        elif answer is not None:
            misses.append(_located(answer, node, live.name))
    return fired, misses


def _anchors_near(values: Sequence[ir.Value], ops: tuple[str, ...]) -> list[ir.Node]:
    """Anchors among the makers of new values and those who read them, a few steps on."""
    found: dict[ir.Node, None] = {}
    layer = [node for v in values if (node := v.producer()) is not None]
    for _ in range(NEARBY + 1):
        found |= dict.fromkeys(layer)
        outputs = [o for node in layer for o in node.outputs if len(o.uses()) <= FEW]
        layer = [reader for o in outputs for reader in o.consumers() if reader not in found]
    return [node for node in reversed(found) if node.domain == "" and node.op_type in ops]


def _alive(node: ir.Node) -> bool:
    return any(o.uses() or o.is_graph_output() for o in node.outputs)


def _located(answer: Miss, node: ir.Node, graph: str) -> Miss:
    return replace(answer, anchor=node.name or node.outputs[0].name or node.op_type, graph=graph)


def _size(tensor: onnx.TensorProto) -> int:
    """At least the bytes of a tensor, without touching them."""
    return 8 * int(math.prod(tensor.dims))
