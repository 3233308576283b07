"""Recipes: the YAML files of ``export_configs/`` as frozen, checked values.

A recipe is data. It is read with limits (size, depth, no aliases, no tags), by YAML 1.2's core types, and every
complaint names ``file:line``, what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from edgeattn import complaints, plainyaml, registry, target, theirs
from edgeattn.errors import RecipeError, UnknownName, UsageError, did_you_mean, printable
from edgeattn.files import read_regular
from edgeattn.plainyaml import Places
from edgeattn.recipe._sections import Buckets, Export, Gates, Latency, Name, Profiles, Quantize, Rewrite, Section
from edgeattn.recipe._shapes import parse_dynamic, parse_spec
from edgeattn.target import Precision

__all__ = ["FOLDER", "MAX_BYTES", "Quantize", "Recipe", "find", "parse_dynamic", "parse_spec"]

MAX_BYTES = 64 << 10
FOLDER = Path("export_configs")


@dataclass(frozen=True)
class _Source:
    """Where each key was read, as ``file:line``; takes no part in comparing recipes."""

    places: Places = field(default_factory=dict, compare=False)

    def at(self, *loc: str) -> str:
        """``file:line`` of a key, or of the nearest key around it."""
        return next((self.places[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in self.places), "recipe")


class Recipe(Section):
    """One complete run: which model, to which engine, in which precision, judged how.

    ``profile`` says, for engines that are built for them, which sizes dynamic dimensions take: least, typical, largest,
    such as ``{batch: [1, 4, 8]}``, or a list of such buckets. ``engine`` holds settings of the engine's own, which
    ``edgeattn explain ENGINE`` lists.
    ``tune`` measures the engine's settings (threads, the float type around INT8) and builds with the fastest.
    ``decoding`` makes an autoregressive model ``steps`` that a decode loop calls, one ``graph`` that decodes greedily,
    or what ``auto`` measures to be faster on the target.
    """

    model: Name
    weights: Name = "default"
    task: Name | None = None
    target: Name
    precision: Precision = "fp32"
    export: Export = Export()
    rewrite: Rewrite = Rewrite()
    quantize: Quantize | None = None
    profile: Profiles = ()
    engine: Mapping[Name, str | bool | int] = {}
    tune: bool = False
    decoding: Literal["steps", "graph", "auto"] = "steps"
    buckets: Buckets | None = None
    latency: Latency = Latency()
    gates: Gates = Gates()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    _source: _Source = PrivateAttr(default_factory=_Source)

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Read a recipe file.

        Raises:
            UsageError: the path is missing, unreadable or not a regular file.
            RecipeError: the text is not a recipe; ``where`` is ``file:line``.
        """
        data = read_regular(Path(path), MAX_BYTES, UsageError)
        return cls.parse(plainyaml.decode(data, str(path)), str(path))

    @classmethod
    def parse(cls, text: str, where: str = "recipe") -> Recipe:
        """Build a recipe from YAML text; ``where`` names it in errors.

        Raises:
            RecipeError: with ``where:line`` and a suggestion.
        """
        values, places = plainyaml.read(text, where)
        if not isinstance(values, dict):
            raise RecipeError(
                f"expected keys and values, got {complaints.got_text(values)}",
                where=f"{where}:1",
                hint="start with 'model: …' and 'target: …'",
            )
        return _validated(values, _Source(places))

    def with_overrides(self, settings: Iterable[str]) -> Recipe:
        """A new recipe with ``--set`` values applied, e.g. ``["latency.pairs=50", "quantize=null"]``.

        Values are YAML. A section that is null is created by setting one of its keys.

        Raises:
            RecipeError: not ``key=value``, an unknown key (with the nearest ones), or a value of the wrong type.
        """
        values = self.model_dump(mode="json")
        places = dict(self._source.places)
        for setting in settings:
            where = f"--set {printable(setting, 80)}"
            key, equals, text = setting.partition("=")
            if not equals or not key:
                raise RecipeError("expected KEY=VALUE", where=where, hint="for example --set latency.pairs=50")
            loc = tuple(key.split("."))
            value, _ = plainyaml.read(text, where)
            _put(values, loc, value, where)
            places[loc] = where
        return _validated(values, _Source(places))

    def dump(self) -> str:
        """The complete recipe as YAML, defaults included; ``parse`` reads it back to an equal recipe."""
        values = self.model_dump(mode="json")
        for name in ("quantize", "buckets"):
            if values[name] is None:
                del values[name]
        return plainyaml.write(values)

    def where(self, *loc: str) -> str:
        """``file:line`` of a key, for later stages that find fault with its value."""
        return self._source.at(*loc)

    def check_names(self) -> None:
        """Check the names that registries own: target, task, scheme and rules.

        Raises:
            UnknownName: with ``file:line`` and the nearest names.
            RecipeError: the engine has no such device.
        """
        self._known("target", "backends", self.target.partition(":")[0], "target")
        try:
            target.parse(self.target)
        except UsageError as error:
            raise RecipeError(error.what, where=self.where("target"), hint=error.hint) from None
        if self.task is not None and not theirs.is_file(self.task):
            self._known("task", "tasks", self.task, "task")
        if self.quantize is not None:
            self._known("scheme", "quantize", self.quantize.scheme, "quantize", "scheme")
            self._check_scheme(self.quantize.scheme)
            self._check_budget(self.quantize)
        for key in ("skip", "only"):
            for rule in getattr(self.rewrite, key):
                self._known("rule", "rewrite", rule, "rewrite", key)

    def _check_scheme(self, scheme: str) -> None:
        found = registry.get("quantize", scheme.replace("-", "_"))
        gives = " or ".join((found.precision, *found.also))
        if self.precision not in gives.split(" or "):
            raise RecipeError(
                f"scheme '{scheme}' is for precision {gives}, and precision is {self.precision}",
                where=self.where("quantize", "scheme"),
                hint=f"set precision: {gives}, or take another scheme (`edgeattn list schemes`)",
            )

    def _check_budget(self, wanted: Quantize) -> None:
        given = next((key for key in ("max_drop", "sqnr", "minutes") if getattr(wanted, key) is not None), None)
        if given and not hasattr(registry.get("quantize", wanted.scheme.replace("-", "_")), "search"):
            raise RecipeError(
                f"scheme '{wanted.scheme}' does not search, so it keeps no budget",
                where=self.where("quantize", given),
                hint="leave it out, or take scheme mixed",
            )

    def _known(self, noun: str, kind: str, name: str, *loc: str) -> None:
        known = registry.names(kind)
        if name.replace("-", "_") not in known:
            raise UnknownName(noun, name, _spelled(kind, known), where=self.where(*loc))


def find(name_or_path: str) -> Path:
    """The file of a recipe: a path, or a bare name looked up as ``./export_configs/NAME.yaml``.

    Raises:
        UnknownName: no such name, with the nearest ones.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1 or path.exists():
        return path
    if (FOLDER / f"{name_or_path}.yaml").is_file():
        return FOLDER / f"{name_or_path}.yaml"
    raise UnknownName("recipe", name_or_path, [p.name.removesuffix(".yaml") for p in FOLDER.glob("*.yaml")])


def _spelled(kind: str, names: list[str]) -> list[str]:
    """Registry names as people write them: rules keep their underscore, the others take a hyphen."""
    return names if kind in ("rewrite", "tasks") else [n.replace("_", "-") for n in names]


def _put(values: dict[str, Any], path: tuple[str, ...], value: object, where: str) -> None:
    for depth, key in enumerate(path):
        known = _keys_at(path[:depth])
        if known is not None and key not in known:
            raise RecipeError(f"unknown key '{'.'.join(path)}'", where=where, hint=_nearest(path[: depth + 1], known))
    for key in path[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[path[-1]] = value


def _nearest(loc: tuple[str, ...], known: list[str]) -> str:
    """What to write in place of a key that there is not: it may be a setting of an engine."""
    for engine in registry.names("backends") if len(loc) == 1 else ():
        if loc[0] in registry.get("backends", engine).knobs.names():
            return f"it is a setting of {engine.replace('_', '-')}: engine: {{{loc[0]}: …}}"
    return did_you_mean(loc[-1], known)


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "export": Export,
    "rewrite": Rewrite,
    "quantize": Quantize,
    "buckets": Buckets,
    "latency": Latency,
    "gates": Gates,
}


def _keys_at(loc: tuple[str, ...]) -> list[str] | None:
    """Keys allowed inside ``loc``; None where any key is (dimensions, shapes); empty inside a plain value."""
    if not loc:
        return list(Recipe.model_fields)
    if loc in (("export", "shapes"), ("rewrite", "fix"), ("profile",), ("engine",)):
        return None
    return list(_SECTIONS[loc[0]].model_fields) if len(loc) == 1 and loc[0] in _SECTIONS else []


def _validated(values: Mapping[str, Any], source: _Source) -> Recipe:
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as e:
        raise complaints.first(e.errors(include_url=False), source.at, _keys_at, _nearest) from None
    if recipe.precision == "int8" and recipe.quantize is None:
        raise RecipeError(
            "precision int8 needs a 'quantize' section that says how INT8 is reached",
            where=source.at("precision"),
            hint="add 'quantize: {scheme: int8-static, gate: float, samples: 300}'",
        )
    recipe._source = source
    return recipe
