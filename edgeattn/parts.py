"""The parts of a matrix: which targets and precisions a user names, and the settings that make each out of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeattn import registry
from edgeattn.errors import UnknownName, UsageError
from edgeattn.recipe import Recipe
from edgeattn.target import parse as parse_target
from edgeattn.target import require_precision

_SCHEMES = {"fp32": "null", "fp16": "{scheme: fp16}", "bf16": "{scheme: bf16}", "int8": "{scheme: int8-static}"}
_ONE_PRECISION = ("int8_share", "size_ratio")
_SOME_ENGINES = {"engine": "{}", "profile": "[]", "buckets": "null"}
"""Keys that only some engines have, and what they are without one."""


@dataclass(frozen=True)
class Asked:
    """One part: the settings that make it out of the recipe.

    Attributes:
        target: as the user wrote it. precision: what the engine is asked for.
        name: of the part's directory: no character in it that a file system or an artifact store minds.
        settings: ``--set`` values.
    """

    target: str
    precision: str
    name: str
    settings: tuple[str, ...]


def targets_in(text: str) -> list[str]:
    """``openvino:cpu,tensorrt-rtx:sm89,sm120`` -> two targets: a device belongs to the engine before it.

    Where that engine's file serves several devices they are one target, else each is a target of its own.

    Raises:
        UnknownName, UsageError: an unknown engine or device, or the same target twice.
    """
    found: list[str] = []
    for word in (part.strip() for part in text.split(",")):
        engine = found[-1].partition(":")[0] if found else ""
        if ":" in word or not engine or word not in _devices(engine):
            found.append(_known(word, engine))
        elif registry.get("backends", engine.replace("-", "_")).joins and ":" in found[-1]:
            found[-1] += f",{word}"
        else:
            found.append(f"{engine}:{word}")
    _refuse_twice([(target, _canonical(target)) for target in found], "--targets")
    return found


def precisions_in(text: str) -> list[str]:
    """``fp32,int8`` -> both.

    Raises:
        UnknownName, UsageError: an unknown precision, or one twice.
    """
    found = [part.strip() for part in text.split(",")]
    for name in found:
        require_precision(name, "--precisions")
    _refuse_twice([(name, name) for name in found], "--precisions")
    return found


def parts_of(recipe: Recipe, targets: Sequence[str], precisions: Sequence[str]) -> list[Asked]:
    """Every target in every precision, each checked as far as names go.

    Raises:
        UsageError: what a part's recipe says does not fit together.
    """
    asked = [_asked(recipe, target, precision) for target in targets for precision in precisions]
    for part in asked:
        recipe.with_overrides(part.settings).check_names()
    return asked


def left_out(recipe: Recipe, targets: Sequence[str], precisions: Sequence[str]) -> list[str]:
    """What the recipe says that other engines or precisions are not asked, a line for each key."""
    asked = [key for key in _SOME_ENGINES if getattr(recipe, key) != Recipe.model_fields[key].default]
    cases = [(key, [target for target in targets if not _takes(recipe, key, target)]) for key in asked]
    gates = [name for name in _ONE_PRECISION if getattr(recipe.gates, name) is not None]
    cases += [(f"gates.{name}", [p for p in precisions if p != recipe.precision]) for name in gates]
    return [f"the recipe's {key} is not asked of {', '.join(others)}" for key, others in cases if others]


def _takes(recipe: Recipe, key: str, target: str) -> bool:
    """Whether an engine has a key; the recipe's own is asked in any case, and says so itself where it has not."""
    engine = parse_target(target)[0]
    backend = registry.get("backends", engine)
    if engine == parse_target(recipe.target)[0]:
        return True
    if key == "engine":
        return set(recipe.engine) <= set(backend.knobs.names())
    return bool(backend.profiled if key == "profile" else backend.bucketed)


def _asked(recipe: Recipe, target: str, precision: str) -> Asked:
    settings = [f"target={target}"]
    if precision != recipe.precision:
        settings += [f"precision={precision}", f"quantize={_SCHEMES[precision]}"]
        settings += [f"gates.{name}=null" for name in _ONE_PRECISION]
    settings += [f"{key}={without}" for key, without in _SOME_ENGINES.items() if not _takes(recipe, key, target)]
    engine, device = parse_target(target)
    name = f"{engine.replace('_', '-')}-{device.replace(',', '+')}.{precision}"
    return Asked(target, precision, name, tuple(settings))


def _devices(engine: str) -> tuple[str, ...]:
    devices: tuple[str, ...] = registry.get("backends", engine.replace("-", "_")).devices
    return devices


def _known(target: str, before: str) -> str:
    """A target that there is; a bare word may have been meant as a device of the engine before it."""
    if not target:
        raise UsageError("names no target between two commas", where="--targets", hint="like openvino:cpu,onnxruntime")
    engines = registry.names("backends")
    if ":" not in target and before and target.replace("-", "_") not in engines:
        known = [*(name.replace("_", "-") for name in engines), *_devices(before)]
        raise UnknownName("target", target, known, where="--targets")
    try:
        parse_target(target)
    except UsageError as error:
        error.where = "--targets"
        raise
    return target


def _canonical(target: str) -> str:
    """The same for every way to write a target."""
    engine, device = parse_target(target)
    return f"{engine.replace('_', '-')}:{','.join(sorted(device.split(',')))}"


def _refuse_twice(names: Sequence[tuple[str, str]], where: str) -> None:
    known: dict[str, str] = {}
    for written, meant in names:
        if meant in known:
            same = f"'{known[meant]}' and '{written}' are the same" if known[meant] != written else f"'{written}' twice"
            raise UsageError(same, where=where, hint="name each once")
        known[meant] = written
