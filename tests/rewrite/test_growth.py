"""The work of the stage grows as the graph does: what is counted is calls, never seconds."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir
import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.program import Program
from edgeattn.rewrite import _apply, _build, _sizes
from edgeattn.rewrite._live import Live
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, as_programs
from edgeattn.rewrite._sample import graph
from tests.benchmarks.rewrite_growth import FAMILIES
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime


def counted(monkeypatch, family, nodes):
    """How often the frame's dear operations run in one rewrite, and how many matches were asked for."""
    calls: Counter[str] = Counter()

    def count(owner, name):
        real = getattr(owner, name)

        def counting(*args, **kwargs):
            calls[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    for rule in map(stage._named, stage.ORDER):
        if isinstance(rule, GraphRule):
            count(rule, "match")
    count(_sizes.Sample, "_compute")
    count(_build, "_alike")
    count(ir.serde, "deserialize_model")
    count(onnx.shape_inference, "infer_shapes")
    count(onnx.checker, "check_model")
    stage.rewrite(draw_cases(Program({"main": FAMILIES[family](nodes)})), open_plain)
    monkeypatch.undo()
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_four_times_the_nodes_are_four_times_the_matches_and_no_more_conversions(monkeypatch, family):
    small, large = (counted(monkeypatch, family, nodes) for nodes in (120, 480))
    for name in ("deserialize_model", "infer_shapes", "check_model"):
        assert large[name] <= small[name] + 1, f"{name}: once a rule that fires, however long the graph"
    for name in ("match", "_compute"):
        # the blocks do not divide 120 and 480 evenly: up to one more block on the large side
        assert large[name] <= 5 * small[name], f"{name}: {small[name]} -> {large[name]}"
    assert large["_alike"] <= small["_alike"] * 5


class Sinks(GraphRule):
    """Moves a Neg behind the Abs that reads it, one step a firing."""

    name = "sinks"
    exactness = ALLCLOSE
    anchors = ("Neg",)
    asked = 0

    def match(self, node, view):
        type(self).asked += 1
        readers = node.outputs[0].consumers()
        return Match(node, (node, *readers)) if [r.op_type for r in readers] == ["Relu"] else None

    def rewrite(self, match, build):
        (reader,) = match.anchor.outputs[0].consumers()
        build.replace(reader.outputs[0], build.op("Neg", build.op("Relu", match.anchor.inputs[0])))

    def examples(self):
        return as_programs()

    near_misses = examples


@pytest.mark.parametrize("length", [50, 200])
def test_a_chain_of_firings_settles_without_a_sweep_for_each(length):
    lines = ["a0 = Neg(x)"] + [f"a{i} = Relu(a{i - 1})" for i in range(1, length)]
    model = graph(f"(float[batch,4] x) => (float[batch,4] y) {{ {' '.join(lines)} y = Abs(a{length - 1}) }}")
    Sinks.asked = 0
    outcome = _apply.apply(Sinks(), Program({"main": model}))
    assert outcome.count == length - 1
    assert Sinks.asked <= 3 * length


def test_names_and_constants_are_found_without_looking_through_the_graph():
    import numpy as np

    model = ir.serde.deserialize_model(registry.get("rewrite", "remove_expand").examples()[0].graphs["main"])
    names = _build.Names(model)
    assert [names.fresh("size"), names.fresh("new"), names.fresh("new")] == ["size_2", "new", "new_2"]
    first, again, other = (names.constant(model.graph, "k", np.float32(v)) for v in (1, 1, 2))
    assert first is again
    assert (first.name, other.name) == ("k", "k_2")
    assert _build.Names(model).constant(model.graph, "k", np.float32(2)) is other, "made before, by another rule"


def test_shapes_are_computed_for_what_is_asked_and_once():
    model = FAMILIES["shapes"](200)
    live = Live("main", _apply.infer_shapes(model))
    (sample, *_) = live.samples()
    name = [node.output[0] for node in model.graph.node if node.op_type == "Expand"][4]  # of the third block
    assert sample[name]
    computed = sample.computed
    assert 0 < computed < 60, "not the whole graph"
    assert sample[name]
    assert sample.computed == computed
