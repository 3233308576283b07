"""What the README shows is true: its commands exist, its files exist, its recipe parses."""

from __future__ import annotations

import re
import subprocess

import pytest

from edgeattn.recipe import Recipe
from tests.conftest import ROOT, edgeattn

README = (ROOT / "README.md").read_text()


def test_every_command_shown_exists() -> None:
    shown = set(re.findall(r"edgeattn ([a-z][a-z-]+)\b", README)) - {"takes"}
    helped = edgeattn("--help").stdout
    assert {"run", "check", "export", "inspect", "list", "explain"} <= shown
    assert [name for name in sorted(shown) if f" {name} " not in helped] == []


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^make ([a-z -]+?) {2,}#", README, re.MULTILINE))
    defined = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for shown in targets for word in shown.split()} <= defined


def test_every_file_shown_exists() -> None:
    paths = re.findall(r"(?:export_configs|examples|tests|docs|edgeattn)/[\w./]+\w", README)
    assert [p for p in paths if not (ROOT / p.replace("/*", "")).exists()] == []
    assert [p for p in re.findall(r"\]\(([\w./]+)\)", README) if not (ROOT / p).exists()] == []


def test_the_recipe_shown_is_a_recipe() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert Recipe.parse(block).target == "openvino:cpu"


@pytest.mark.parametrize("path", sorted((ROOT / "export_configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_shipped_parses_and_is_short(path) -> None:
    recipe = Recipe.load(path)
    recipe.check_names()
    assert len(path.read_text().splitlines()) <= 25
    assert path.name == f"{recipe.model}.{recipe.target.split(':')[0]}.{recipe.precision}.yaml"


def test_the_makefile_explains_itself() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"make {target}" in done.stdout for target in ("demo", "test", "lint", "type", "bench", "weights"))
