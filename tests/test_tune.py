"""Engine settings are measured, and kept only where the program is faster and still right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from edgeattn import tune
from edgeattn.backends import Options, oracle
from edgeattn.program import Case, Program, Reference
from tests.graphs import conv_net

ort = pytest.importorskip("edgeattn.backends.onnxruntime")


class Between(ort.OnnxRuntimeBackend):
    """ONNX Runtime, offering to switch its optimiser the other way."""

    def variants(self, options: Options) -> list[Mapping[str, object]]:
        return [{"optimize": not options.optimize}]


@pytest.fixture(scope="module")
def program() -> Program:
    """Convolutions whose activations are worth fusing: several times slower unoptimised."""
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    graph = Program({"main": conv_net(64)})
    case = Case("real-1", {"image": image})
    outputs = oracle(graph)["main"].run(case.feeds)
    return replace(graph, reference=Reference("itself", (replace(case, outputs=outputs),)))


def test_a_setting_that_is_faster_and_right_is_taken(program: Program) -> None:
    options, ((name, choice),) = tune.settings(program, Between(), Options(threads=1, optimize=False), lambda _: "")
    assert (name, choice.keep) == ("optimize=True", options.optimize), choice
    if not choice.why.startswith("not settled"):  # a machine that cannot tell leaves things as they are
        assert choice.keep, choice


def test_a_setting_that_is_slower_is_left(program: Program) -> None:
    options, ((_, choice),) = tune.settings(program, Between(), Options(threads=1), lambda _: "")
    assert options.optimize
    assert not choice.keep, choice


def test_a_faster_setting_with_wrong_answers_is_left_and_says_so(program: Program) -> None:
    asked = Options(threads=1, optimize=False)
    options, ((_, choice),) = tune.settings(program, Between(), asked, lambda _: "parity fails on y")
    assert options == asked
    assert "parity fails on y" in choice.why or choice.why.startswith("not settled")
