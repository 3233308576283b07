"""Recipes: the YAML files of ``export_configs/`` as frozen, checked values.

A recipe is data. It is read with limits (size, depth, no aliases, no tags), by YAML 1.2's core types, and every
complaint names ``file:line``, what was expected and what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from edgeattn import complaints, plainyaml, registry, target, theirs
from edgeattn.errors import RecipeError, UnknownName, UsageError, did_you_mean, printable
from edgeattn.files import read_regular
from edgeattn.plainyaml import Places
from edgeattn.profile import Span, parse_span
from edgeattn.program import INPUT_DTYPES, TensorSpec
from edgeattn.target import Precision

MAX_BYTES = 64 << 10
FOLDER = Path("export_configs")


def parse_spec(name: str, text: object) -> TensorSpec:
    """``"1x16:int64"`` -> ``TensorSpec(name, "int64", (1, 16))``; float32 where no type is said.

    Raises:
        ValueError: not positive integers joined by ``x``, or an unknown type.
    """
    dims, colon, dtype = _shape(text).partition(":")
    return TensorSpec(name, dtype if colon else "float32", tuple(int(d) for d in dims.split("x")))


def _shape(text: object) -> str:
    joined = "x".join(map(str, text)) if isinstance(text, list | tuple) else str(text)
    dims, colon, dtype = joined.partition(":")
    if not all(re.fullmatch(r"[1-9][0-9]{0,11}", d) for d in dims.split("x")):
        raise ValueError("expected positive integers joined by 'x', like 1x3x224x224 or 1x16:int64")
    if colon and dtype not in INPUT_DTYPES:
        raise ValueError(f"unknown type '{printable(dtype, 40)}' ({did_you_mean(dtype, INPUT_DTYPES)})")
    return joined


def parse_dynamic(text: object) -> tuple[str, int, str]:
    """``"x:0=batch"`` -> ``("x", 0, "batch")``: axis 0 of input ``x`` is dynamic and named ``batch``.

    Raises:
        ValueError: not of that form.
    """
    match = re.fullmatch(r"(.+):([0-9]{1,2})=([A-Za-z_][A-Za-z0-9_]*)", text) if isinstance(text, str) else None
    if not match:
        raise ValueError("expected INPUT:AXIS=NAME, like x:0=batch")
    return match[1], int(match[2]), match[3]


def _dynamic(text: object) -> object:
    parse_dynamic(text)
    return text


Shape = Annotated[str, BeforeValidator(_shape)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Dynamic = Annotated[tuple[Annotated[str, BeforeValidator(_dynamic)], ...], Field(strict=False)]
Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Export(_Section):
    """How a model becomes ONNX; ``shapes`` (as ``1x16:int64``) and ``dynamic`` are for users' own modules.

    ``inputs`` is an ``.npz`` of real inputs, one of the cases that every stage is judged on.
    """

    opset: Annotated[int, Field(ge=17, le=20)] = 18
    shapes: Mapping[str, Shape] = {}
    dynamic: Dynamic = ()
    inputs: Name | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Export:
        if self.shapes and self.inputs:
            raise ValueError("'shapes' and 'inputs' exclude each other; keep 'inputs', whose arrays say their shapes")
        return self


class Rewrite(_Section):
    """Which rules run: all but ``skip``, or ``only`` those named.

    ``measure``: rules that help on one engine and hurt on another are timed on the target, and stay where they make the
    program faster in the precision it is built in. Off, the same recipe gives the same graph on every machine; in INT8
    those that pay there on every engine (a recurrent cell as one Gemm) are applied all the same.
    ``fix`` gives dynamic dimensions the size that the engine is built for, such as ``{batch: 1}``.
    """

    skip: Names = ()
    only: Names = ()
    measure: bool = True
    fix: Mapping[Name, Annotated[int, Field(ge=1, lt=2**31)]] = {}

    @model_validator(mode="after")
    def _one_of(self) -> Rewrite:
        if self.skip and self.only:
            raise ValueError("'skip' and 'only' exclude each other; keep one")
        return self


class Quantize(_Section):
    """How a lower precision is reached.

    ``gate``: attention gates in ``float``, in ``int8``, or as ``auto`` measures on the target. ``keep`` names node or
    module patterns that stay in float, ``ranges`` how a range follows from the calibration data: ``calib``, as
    ``edgeattn quantize --calib`` takes it (by default the task), at most ``samples`` of it, and ``pixels`` of a folder
    of images. ``max_drop`` (a share of the metric), ``sqnr`` (dB) and ``minutes`` are the budget of a scheme that
    searches.
    """

    scheme: Name = "int8-static"
    gate: Literal["float", "int8", "auto"] = "float"
    ranges: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    calib: Name | None = None
    pixels: Name | None = None
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    keep: Names = ()
    max_drop: Share | None = None
    sqnr: Positive | None = None
    minutes: Positive | None = None


class Buckets(_Section):
    """Fixed lengths to build for in place of a dynamic one: ``sizes``, or a ``count`` of them chosen for a file of
    ``lengths`` met in use (LENGTH, or LENGTH COUNT, a line), so that the least is padded.
    """

    sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(strict=False, max_length=32)] = ()
    lengths: Name | None = None
    count: Annotated[int, Field(ge=1, le=32)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Buckets:
        if bool(self.sizes) == (self.lengths is not None) or (self.lengths is None) != (self.count is None):
            raise ValueError("give 'sizes', or 'lengths' with 'count'")
        return self


def _span(text: object) -> Span:
    return parse_span(text)


Profiles = Annotated[
    tuple[Mapping[Name, Annotated[Span, BeforeValidator(_span)]], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value),
    Field(strict=False),
]


class Latency(_Section):
    """How long to measure; ``threads`` 0 means the physical cores this process may use."""

    pairs: Annotated[int, Field(ge=20, le=1_000_000)] = 300
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


class Gates(_Section):
    """What must hold for the verdict ``pass``; null switches a gate off.

    Attributes:
        precision: the engine runs in what was asked for (see edgeattn.report.gates): most of the multiply-accumulates
            in INT8, FP16 or BF16, or the share that ``int8_share`` asks for; none in a half precision of FP32.
        parity: no parity verdict after the last stage is ``fail``.
        task_drop: by how much the engine's metric is worse than PyTorch's, absolute, is at most this.
        task_min: the engine's metric is at least this. task_max: at most, for one where lower is better (perplexity).
        agreement: share of test samples on which engine and PyTorch predict the same is at least this.
        speedup: the lower 95 % bound of median(reference / engine) is at least this.
        int8_share: share of the multiply-accumulates that really run in INT8 is at least this.
        size_ratio: engine bytes over reference bytes is at most this.
    """

    precision: bool = True
    parity: bool = True
    task_drop: NotNegative | None = None
    task_min: NotNegative | None = None
    task_max: Positive | None = None
    agreement: Share | None = None
    speedup: Positive | None = None
    int8_share: Share | None = None
    size_ratio: Positive | None = None


@dataclass(frozen=True)
class _Source:
    """Where each key was read, as ``file:line``; takes no part in comparing recipes."""

    places: Places = field(default_factory=dict, compare=False)

    def at(self, *loc: str) -> str:
        """``file:line`` of a key, or of the nearest key around it."""
        return next((self.places[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in self.places), "recipe")


class Recipe(_Section):
    """One complete run: which model, to which engine, in which precision, judged how.

    ``profile`` says, for engines that are built for them, which sizes dynamic dimensions take: least, typical, largest,
    such as ``{batch: [1, 4, 8]}``, or a list of such buckets. ``engine`` holds settings of the engine's own.
    ``tune`` measures the engine's settings (threads, the float type around INT8) and builds with the fastest.
    ``decoding`` makes an autoregressive model ``steps`` that a decode loop calls, one ``graph`` that decodes greedily,
    or what ``auto`` measures to be faster on the target.
    ``hint`` tunes for the ``latency`` of one request or the ``throughput`` of many; ``stateful`` keeps a decoder's
    state in the engine (by default where that was measured to be faster); ``blob`` keeps the compiled engine too.
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
    hint: Literal["latency", "throughput"] = "latency"
    buckets: Buckets | None = None
    stateful: bool | None = None
    blob: bool = False
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
        gives = " or ".join((found.precision, *getattr(found, "also", ())))
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
            raise RecipeError(f"unknown key '{'.'.join(path)}'", where=where, hint=did_you_mean(key, known))
    for key in path[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[path[-1]] = value


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
        raise complaints.first(e.errors(include_url=False), source.at, _keys_at) from None
    if recipe.precision == "int8" and recipe.quantize is None:
        raise RecipeError(
            "precision int8 needs a 'quantize' section that says how INT8 is reached",
            where=source.at("precision"),
            hint="add 'quantize: {scheme: int8-static, gate: float, samples: 300}'",
        )
    recipe._source = source
    return recipe
