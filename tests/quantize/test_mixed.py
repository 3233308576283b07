"""The budgeted search on a small net with one layer planted that INT8 cannot hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import backends, decode, registry
from edgeattn.errors import BudgetMissed, OutOfResources, UsageError
from edgeattn.program import Case, Program
from edgeattn.quantize import Budget, Drop, Judge, Settings, quantize
from tests.graphs import model

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)
CASES = [Case("c", {"image": RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)}) for _ in range(8)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fragile_net(loudness: float = 1000) -> onnx.ModelProto:
    """conv1 … conv5; conv3 reads a value whose first channel is 1,000 times the others, which leaves them no level."""
    rng = np.random.default_rng(1)
    loud = np.ones((1, 16, 1, 1), np.float32)
    loud[0, 0] = loudness
    weights = {f"w{i}": rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 for i in range(2, 6)}
    weights |= {"w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32) / 5, "loud": loud}
    weights["w3"][:, 0] /= loudness
    nodes = []
    value = "image"
    for i in range(1, 6):
        if i == 3:
            nodes.append(helper.make_node("Mul", [value, "loud"], ["louder"], name="scale"))
            value = "louder"
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"),
        ]
        value = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"], name="pool"))
    return model(nodes, {"image": ["batch", 3, 8, 8]}, {"y": ["batch", 16, 1, 1]}, weights)


class Counting:
    """Opens programs for calibration, and counts them."""

    def __init__(self) -> None:
        self.opened = 0

    def __call__(self, program: Program):
        self.opened += 1
        return backends.oracle(program)


def search(
    budget: Budget,
    judge: Judge | None = None,
    opener: Counting | None = None,
    net: onnx.ModelProto | None = None,
    **more,
) -> Program:
    asked = Settings(qdq=registry.get("backends", "onnxruntime").qdq, budget=budget, **more)
    program = Program({"main": net or fragile_net()})
    return quantize(program, "mixed", opener or Counting(), iter(CASES), asked, judge)


def notes(program: Program) -> dict:
    return dict(program.history[-1].notes)


def test_the_ranking_finds_the_fragile_layer_and_all_else_is_int8() -> None:
    result = search(Budget(sqnr=25))
    told = notes(result)["search"]
    assert told["ranking"][0]["layers"] == "conv3"
    assert [row["layers"] for row in told["ranking"] if row["float"]] == ["conv3"]
    stored = {t.name for t in result.graphs["main"].graph.initializer}
    assert {f"w{i}_int8" for i in (1, 2, 4, 5)} <= stored
    assert "w3" in stored
    # conv3 is a quarter of the work of the four wide layers and the narrow first: 2304 of 4 · 2304 + 432 a position
    why = notes(result)["kept_float"]["conv3"]
    assert why.startswith("costs ")
    assert why.endswith(" dB, 24 % of the MACs")
    assert told["before"]["sqnr_db"] < 25 <= told["reached"]["sqnr_db"]


def test_what_was_reached_is_what_the_graph_gives() -> None:
    """Measured again from outside, on the very cases that were held out: every fourth."""
    result = search(Budget(sqnr=25))
    levels = []
    for case in CASES[3::4]:
        ref, out = (
            decode.run(backends.oracle(p), None, case.feeds)["y"] for p in (Program({"main": fragile_net()}), result)
        )
        levels.append(20 * np.log10(np.linalg.norm(ref) / np.linalg.norm(ref - out)))
    assert notes(result)["search"]["held_out"] == 8
    assert notes(result)["search"]["reached"]["sqnr_db"] == pytest.approx(min(levels), abs=1e-3)  # float32 sums


def test_a_budget_that_all_of_int8_keeps_ranks_nothing() -> None:
    told = notes(search(Budget(), net=fragile_net(loudness=1)))["search"]
    assert told["asked"] == "sqnr 30 dB"  # what the INT8 gate passes
    assert told["groups_in_float"] == 0
    assert told["ranking"] == []
    assert told["trials"] == 1


def test_an_impossible_budget_fails_and_says_what_is_the_best() -> None:
    with pytest.raises(BudgetMissed) as missed:
        search(Budget(sqnr=200))
    assert missed.value.exit_code == 1
    assert str(missed.value).startswith("sqnr 200 dB on the engine that calibrates: no mixture with a layer in INT8")
    assert " dB with " in str(missed.value)


def test_a_search_goes_on_where_it_was_and_repeats_no_trial(own_cache: Path) -> None:
    first, second = Counting(), Counting()
    before = search(Budget(sqnr=25), opener=first)  # without a judge candidates are opened there too
    after = search(Budget(sqnr=25), opener=second)
    assert after.digest() == before.digest()
    assert first.opened > 8
    assert second.opened == 2  # to calibrate, and to answer what is held out
    assert len(list((own_cache / "mixed").iterdir())) == 1
    other = search(Budget(sqnr=25), keep=("conv5",))
    assert notes(other)["search"]["recalled"] == 0  # another plan: nothing of the first is true of it


def test_a_line_that_a_killed_run_left_unfinished_is_measured_again(own_cache: Path) -> None:
    search(Budget(sqnr=25))
    (state,) = (own_cache / "mixed").iterdir()
    state.write_bytes(state.read_bytes()[:-9])
    resumed = notes(search(Budget(sqnr=25)))["search"]
    assert resumed["trials"] == 1
    assert notes(search(Budget(sqnr=25)))["search"]["trials"] == 0


class Impatient:
    """An engine in which the time is up after a number of candidates."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left, self.now = allowed, 0.0
        monkeypatch.setattr("edgeattn.quantize._search.time.monotonic", lambda: self.now)

    def __call__(self, program: Program):
        self.left -= 1
        if self.left <= 0:
            self.now = 1e6
        return backends.oracle(program)


def test_out_of_time_it_says_how_far_it_came_and_goes_on_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Impatient(monkeypatch, 1)
    with pytest.raises(OutOfResources) as late:
        search(Budget(sqnr=25, minutes=1), Judge("the test's engine", engine))
    assert "1 minutes are up with 0 of 5 groups of layers ranked; the best found has" in str(late.value)
    assert "run the same again to go on from here" in str(late.value)
    result = search(Budget(sqnr=25, minutes=1), Judge("the test's engine", Impatient(monkeypatch, 100)))
    assert notes(result)["search"]["recalled"] == 1
    assert notes(result)["search"]["groups_in_float"] == 1


def test_out_of_time_with_a_mixture_in_hand_it_is_taken_and_said_to_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge("the test's engine", Impatient(monkeypatch, 1 + 5 + 1))  # all, each alone, one mixture
    told = notes(search(Budget(sqnr=45, minutes=1), judge))["search"]  # needs two in float
    assert told["cut"]
    assert told["reached"]["sqnr_db"] >= 45


def test_without_a_place_to_write_it_works_and_says_that_it_cannot_be_resumed(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEATTN_CACHE", str(tmp_path / "file"))
    told = notes(search(Budget(sqnr=25)))["search"]
    assert told["groups_in_float"] == 1
    assert "file" in told["not_resumable"]


def test_a_drop_of_the_tasks_metric_is_a_budget() -> None:
    """The metric: the share of a fixed projection's signs that are right, on data of its own."""
    images = np.random.default_rng(5).standard_normal((64, 3, 8, 8)).astype(np.float32)
    center = decode.run(backends.oracle(Program({"main": fragile_net()})), None, {"image": images})["y"]

    def drop(candidate: Program) -> Drop:
        y = decode.run(backends.oracle(candidate), None, {"image": images})["y"]
        middle = np.median(center, axis=0)
        wrong = float(np.mean((y > middle) != (center > middle)))
        return Drop(wrong, 1.0, 1 - wrong, (wrong, wrong), "sign", y.size)

    judge = Judge("the test's engine", backends.oracle, "signs", drop)
    told = notes(search(Budget(max_drop=0.05), judge))["search"]
    assert told["before"]["drop"] > 0.05 >= told["reached"]["drop"]
    assert [row["layers"] for row in told["ranking"] if row["float"]] == ["conv3"]


@pytest.mark.parametrize(
    ("scheme", "budget", "said"),
    [
        ("mixed", Budget(max_drop=0.01), "max_drop is a share of a task's metric, and there is none"),
        ("mixed", Budget(sqnr=-1), "sqnr is -1"),
        ("mixed", Budget(sqnr=float("nan")), "sqnr is nan"),
        ("int8-static", Budget(minutes=5), "scheme 'int8-static' does not search, so it keeps no budget"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(scheme: str, budget: Budget, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quantize(Program({"main": fragile_net()}), scheme, backends.oracle, _unread(), Settings(budget=budget))


def _unread() -> Iterator[Case]:
    raise AssertionError("data was read before the budget was looked at")
    yield


def test_layers_that_read_one_value_or_share_a_weight_are_one_group() -> None:
    from edgeattn.quantize._groups import groups
    from edgeattn.quantize._plan import plan

    w = {name: np.ones((16, 16), np.float32) for name in ("q", "k", "o", "tied")}
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["a"], name="query"),
        helper.make_node("MatMul", ["x", "k"], ["b"], name="key"),
        helper.make_node("Mul", ["a", "b"], ["c"], name="mul"),
        helper.make_node("MatMul", ["c", "o"], ["d"], name="out"),
        helper.make_node("MatMul", ["d", "tied"], ["e"], name="up"),
        helper.make_node("MatMul", ["e", "tied"], ["f"], name="down"),
    ]
    graph = model(nodes, {"x": ["batch", 16]}, {"f": ["batch", 16]}, w)
    program = Program({"main": graph})
    found = groups(program, {"main": plan(graph, Settings())})
    assert [group.name for group in found] == ["query, key", "out", "up, down"]
    assert sum(group.share for group in found) == pytest.approx(1)
