"""Engines' own settings: one declaration, which recipes, the command line, its help and the cards read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeattn import registry
from edgeattn.backends import Options
from edgeattn.errors import RecipeError, UsageError
from edgeattn.recipe import Recipe
from tests.conftest import edgeattn

ENGINES = registry.names("backends")


def settings(engine: str, **asked: Any) -> Any:
    return registry.get("backends", engine).knobs.of(Options(settings=asked), "--engine", engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_declared_has_a_type_a_help_and_a_default_that_it_takes(engine: str) -> None:
    assert all(knob.takes and knob.help for knob in registry.get("backends", engine).knobs.listed())
    given = {name: value for name, value in vars(settings(engine)).items() if value is not None}
    assert settings(engine, **given) == settings(engine)


@pytest.mark.parametrize(
    ("engine", "asked", "told"),
    [
        ("openvino", {"hint": "speed"}, "--engine: 'hint' is latency or throughput, not 'speed'"),
        ("openvino", {"hints": "latency"}, "openvino has no setting 'hints'; did you mean 'hint'?"),
        ("openvino", {"blob": "yes"}, "'blob' is true or false, not 'yes'"),
        ("tensorrt", {"strip": 1}, "'strip' is true or false, not '1'"),
        ("tensorrt", {"hardware": "any"}, "'hardware' is same or same_capability or ampere_plus, not 'any'"),
        ("tensorrt", {"optimization_level": True}, "'optimization_level' is a number, not 'True'"),
        ("tensorrt", {"optimization_level": 6}, "'optimization_level' is 6, not from 0 to 5"),
        ("tensorrt", {"strict_cache": True}, "there is no cache to hold to; name one: timing_cache"),
        ("onnxruntime", {"blob": True}, "onnxruntime has no setting 'blob'; it has none: leave it out"),
    ],
)
def test_a_setting_that_cannot_be_is_told(engine: str, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        settings(engine, **asked)
    assert told in str(raised.value)


def test_a_key_of_a_recipe_that_is_a_setting_is_told_its_place() -> None:
    text = "model: cam_digits\ntarget: openvino\n"
    for made in (lambda: Recipe.parse(f"{text}blob: true\n"), lambda: Recipe.parse(text).with_overrides(["blob=true"])):
        with pytest.raises(RecipeError, match=r"unknown key 'blob'; it is a setting of openvino: engine: \{blob: …\}"):
            made()
    assert Recipe.parse(f"{text}engine: {{blob: true}}\n").engine == {"blob": True}


def test_help_and_cards_list_what_is_declared() -> None:
    shown = edgeattn("compile", "--help").stdout
    for engine in ENGINES:
        declared = [knob.name for knob in registry.get("backends", engine).knobs.listed()]
        card = json.loads(edgeattn("explain", engine, "--json").stdout)
        assert [setting["name"] for setting in card["settings"]] == declared
        assert all(f"{name}=" in shown for name in declared)
