"""The table of spellings through the recogniser: everything in it is found, and nothing else."""

from __future__ import annotations

import random
import time

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn.recognise import recognise
from tests.graphs import model

pytest.importorskip("torch")
from tests.spellings import SPELLINGS, Unexportable
from tests.spellings._match import wrong
from tests.spellings._variants import CHEAP, LOST, VARIANTS, Absent

pytestmark = pytest.mark.torch

# A part of the cross product; `make test-long` runs all of it, `make spellings` writes what comes of it to the docs.
DRAW = random.Random(0)
SAMPLE = DRAW.sample([(s, v) for s in SPELLINGS for v in CHEAP], 120)
DYNAMO = DRAW.sample(SPELLINGS, 12)


def test_every_spelling_has_a_name_of_its_own() -> None:
    assert len({s.name for s in SPELLINGS}) == len(SPELLINGS)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: s.name)
def test_is_found_as_what_it_is(spelling) -> None:
    try:
        program = spelling.export("torchscript", 17)  # a fiftieth of the other exporter's time
    except Unexportable:
        program = spelling.export("dynamo", 18)
    assert wrong(spelling, recognise(program.graphs["main"])) == []


@pytest.mark.parametrize("spelling", DYNAMO, ids=lambda s: s.name)
def test_is_found_behind_the_other_exporter(spelling) -> None:
    assert wrong(spelling, recognise(spelling.export("dynamo", 18).graphs["main"])) == []


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("spelling", "variant"), SAMPLE, ids=lambda x: getattr(x, "name", x))
def test_is_found_in_every_variant_of_its_graph(spelling, variant: str) -> None:
    try:
        graph = VARIANTS[variant](spelling)
    except (Absent, Unexportable) as error:
        pytest.skip(str(error))
    assert wrong(spelling, recognise(graph)) == []


@pytest.mark.long
@pytest.mark.onnxruntime
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_table_is_found_in_every_variant(variant: str) -> None:
    said = []
    for spelling in (s for s in SPELLINGS if s.name not in LOST.get(variant, ())):
        try:
            said += [f"{spelling.name}: {s}" for s in wrong(spelling, recognise(VARIANTS[variant](spelling)))]
        except (Absent, Unexportable):
            continue
    assert said == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ONNX makes its cases of values that overflow
def test_nothing_raises_and_nothing_is_found_in_the_operators_own_cases() -> None:
    from onnx.backend.test.loader import load_model_tests

    found = {}
    for case in load_model_tests(kind="node"):
        if case.model is not None and (attentions := recognise(case.model)):
            found[case.name] = [a.kind for a in attentions]
    assert {name for name in found if "attention" not in name} == set()
    assert {kind for kinds in found.values() for kind in kinds} == {"mha"}


def chain(count: int, nodes, **constants: np.ndarray) -> onnx.ModelProto:
    """``count`` times the nodes that ``nodes(i, x)`` makes of ``x``; they end in ``o{i}``."""
    made, x = [], "x"
    for i in range(count):
        made += nodes(i, x)
        x = f"o{i}"
    return model(made, {"x": ["batch", 16, 8, 8]}, {x: ["batch", 16, 8, 8]}, constants)


def squeezes(i: int, x: str) -> list[onnx.NodeProto]:
    make = helper.make_node
    return [
        make("Conv", [x, "w"], [f"c{i}"]),
        make("GlobalAveragePool", [f"c{i}"], [f"p{i}"]),
        make("Conv", [f"p{i}", "down"], [f"h{i}"]),
        make("Relu", [f"h{i}"], [f"r{i}"]),
        make("Conv", [f"r{i}", "up"], [f"e{i}"]),
        make("Sigmoid", [f"e{i}"], [f"m{i}"]),
        make("Mul", [f"c{i}", f"m{i}"], [f"o{i}"]),
    ]


def swishes(i: int, x: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Sigmoid", [x], [f"m{i}"]), helper.make_node("Mul", [x, f"m{i}"], [f"o{i}"])]


@pytest.mark.parametrize(("nodes", "count", "kinds"), [(squeezes, 1000, ["se"] * 1000), (swishes, 3500, [])])
def test_time_grows_with_the_graph_and_no_faster(nodes, count: int, kinds: list[str]) -> None:
    weights = {"w": (16, 16, 1, 1), "down": (4, 16, 1, 1), "up": (16, 4, 1, 1)}
    constants = {name: np.zeros(shape, np.float32) for name, shape in weights.items()} if nodes is squeezes else {}

    def seconds(count: int) -> float:
        graph = chain(count, nodes, **constants)
        started = time.process_time()
        recognise(graph)
        return time.process_time() - started

    assert [a.kind for a in recognise(chain(count, nodes, **constants))] == kinds
    small, large = min(seconds(count // 10) for _ in range(3)), seconds(count)
    assert large < 40 * small  # tenfold the nodes; a quadratic search would take a hundredfold
