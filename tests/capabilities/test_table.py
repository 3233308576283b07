"""The table itself: every fact has its source, and versions grow in the order in which they came out."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import onnx
import pytest

from edgeattn.capabilities import Engine, Fact, _tensorrt, resolve, targets

ROWS = [f"{family}:{name}" for family, names in targets().items() for name in names]


@pytest.mark.parametrize("name", ROWS)
def test_what_is_claimed_has_a_source(name: str) -> None:
    engine = resolve(name).engine
    facts = {field.name: getattr(engine, field.name) for field in fields(Engine)}
    claimed = {n: fact for n, fact in facts.items() if isinstance(fact, Fact) and fact.value}
    assert {n for n, fact in claimed.items() if not fact.source} <= {"int64"}  # native needs no source


@pytest.mark.parametrize("name", ROWS)
def test_operators_are_words_of_the_standard(name: str) -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert not resolve(name).engine.operators.value - known


def test_a_newer_tensorrt_takes_what_an_older_one_took() -> None:
    rows = [_tensorrt.row(version) for version in _tensorrt.VERSIONS]
    for older, newer in pairwise(rows):
        assert older.operators.value <= newer.operators.value
        assert older.opsets.value[1] <= newer.opsets.value[1]
        assert set(newer.constants.value) <= set(older.constants.value)


def test_the_dates_that_decide_are_in_it() -> None:
    """The four rows that users of Jetson meet (onnx-tensorrt docs/operators.md and Changelog)."""
    operators = {version: _tensorrt.row(version).operators.value for version in _tensorrt.VERSIONS}
    assert "LayerNormalization" not in operators["8.5"]
    assert "LayerNormalization" in operators["8.6"]
    assert "Attention" not in operators["10.13"]
    assert "Attention" in operators["10.14"]
    assert [_tensorrt.row(v).typing.value for v in ("8.6", "10.3", "11.0")] == ["weak", "optional", "strong"]
