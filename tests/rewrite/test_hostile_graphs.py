"""Rules on graphs that lack what an exporter gives: none may raise, and what a rule makes stays valid and right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply, _check
from edgeattn.rewrite._rule import GraphRule
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULES = [name for name in registry.names("rewrite") if isinstance(registry.get("rewrite", name), GraphRule)]


def bare(model):
    """A copy without what shape inference found."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    return copy


def sizes_unknown(model):
    copy = bare(model)
    for value in (*copy.graph.input, *copy.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return copy


def constants_fed(model):
    copy = bare(model)
    given = {v.name for v in copy.graph.input}
    new = [t for t in copy.graph.initializer if t.name not in given]
    copy.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in new)
    return copy


def constants_as_nodes(model):
    copy = bare(model)
    made = [helper.make_node("Constant", [], [t.name], f"constant_{t.name}", value=t) for t in copy.graph.initializer]
    rest = list(copy.graph.node)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend([*made, *rest])
    return copy


def in_float64(model):
    copy = bare(model)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return copy


def every_value_handed_out(model):
    copy = bare(model)
    known = {v.name for v in copy.graph.output}
    inferred = _apply.infer_shapes(copy).graph.value_info
    copy.graph.output.extend(v for v in inferred if v.name not in known)
    return copy


HOSTILE = (sizes_unknown, constants_fed, constants_as_nodes, in_float64, every_value_handed_out)


def programs(rule, change):
    """The rule's examples and near misses, changed, with shapes inferred as the stage does before any rule.

    Those that are no valid ONNX any more are left out.
    """
    for source in (*rule.examples(), *rule.near_misses()):
        program = Program({name: change(model) for name, model in source.graphs.items()})
        if not _check.broken(program):
            yield replace(program, graphs={n: _apply.infer_shapes(m) for n, m in program.graphs.items()})


@pytest.mark.parametrize("change", HOSTILE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_neither_raises_nor_breaks_a_graph_that_lacks_something(name, change):
    rule = registry.get("rewrite", name)
    for program in programs(rule, change):
        outcome = _apply.apply(rule, program)
        assert _check.broken(outcome.program) == ""
        assert _check.not_as_before(program, outcome.program) == ""


@pytest.mark.parametrize("change", [constants_as_nodes, every_value_handed_out], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", RULES)
def test_numbers_stay_where_every_value_is_handed_out_or_constants_are_nodes(name, change):
    rule = registry.get("rewrite", name)
    if rule.restores:
        pytest.skip("the source graph's numbers are what this rule mends")
    for program in programs(rule, change):
        outcome = _apply.apply(rule, program)
        if not outcome.count:
            continue
        source = draw_cases(program)
        after = replace(outcome.program, reference=source.reference)
        names = [case.name for case in source.reference.cases]
        want, have = _check.outputs_of(source, open_plain), _check.outputs_of(after, open_plain)
        assert _check.judge(want, have, names, rule.exactness).reason == ""
