"""Rewriting ONNX's own operator tests changes no answer: 1,300 graphs from elsewhere, most of them hostile to rules."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest

from edgeattn import rewrite as stage
from edgeattn.errors import EdgeattnError
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite import _check
from tests.rewrite.engine import open_plain

pytestmark = [pytest.mark.onnxruntime, pytest.mark.slow]


def test_no_operator_test_that_onnxruntime_passes_is_broken():
    outcomes = Counter(_outcome(test) for test in _node_tests())
    assert outcomes["wrong"] == 0
    assert outcomes["edited"] == 0
    assert outcomes["right"] > 1000, outcomes


def _node_tests():
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy overflows while ONNX generates its own cases
        return load_model_tests(kind="node")


def _outcome(test) -> str:
    model = test.model or onnx.load(f"{test.model_dir}/model.onnx")
    try:
        inputs = test.data_sets[0][0]
        feeds = {v.name: np.asarray(x) for v, x in zip(model.graph.input, inputs, strict=True)}
        expected = open_plain(Program({"main": model}))["main"].run(feeds)
        if not all(isinstance(array, np.ndarray) for array in expected.values()):
            return "no tensors"
    except Exception:  # operators and types that this engine lacks
        return "not runnable"
    program = Program({"main": model}, reference=Reference("source graph", (Case("onnx", feeds),)))
    digest = program.digest()
    try:
        result = stage.rewrite(program, open_plain)
    except EdgeattnError:
        return "refused"
    if program.digest() != digest:
        return "edited"
    actual = open_plain(result)["main"].run(feeds)
    return "wrong" if any(_check.compare(expected[k], actual[k])[0] for k in expected) else "right"
