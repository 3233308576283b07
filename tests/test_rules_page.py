"""docs/rules.md tells of the rules there are, in the words of their cards."""

from __future__ import annotations

import re

import pytest

from edgeattn import registry
from edgeattn.rewrite import ORDER
from tests.benchmarks import rules
from tests.conftest import ROOT

pytestmark = pytest.mark.onnxruntime

PAGE = ROOT / "docs" / "rules.md"
AGAIN = "docs/rules.md is not up to date: make rules"


def test_the_page_has_a_section_for_every_rule_in_order() -> None:
    assert re.findall(r"^## (\w+)$", PAGE.read_text(), re.MULTILINE) == list(ORDER), AGAIN


@pytest.mark.parametrize("name", ORDER)
def test_a_section_is_the_rules_card(name: str) -> None:
    section = PAGE.read_text().split(f"\n## {name}\n")[-1].split("\n## ")[0]
    assert registry.card("rewrite", name) in section, AGAIN


def test_the_page_is_made_of_what_explain_prints() -> None:
    made = rules.page()
    assert made.startswith("# Rewrite rules\n")
    assert all(f"[{name}](#{name})" in made for name in ORDER)
    assert "x → Shape → size" in made
