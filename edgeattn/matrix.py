"""One recipe for several targets: what is asked, and a process of its own for each part of it.

A part is the run that ``edgeattn run RECIPE --set target=… --set precision=…`` would be, in a process of its own: a
builder that dies takes no other part along, and its memory is its own. What parts have in common is done once
(:mod:`edgeattn.shelf`).
"""

from __future__ import annotations

import contextlib
import ctypes  # noqa: F401 - die_with needs it between fork and exec, where nothing may be imported
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from edgeattn import outcome, registry, worker
from edgeattn.errors import (
    VERDICT_CODES,
    EdgeattnError,
    EngineFailed,
    IntegrityError,
    UnknownName,
    Unsupported,
    UsageError,
    printable,
)
from edgeattn.recipe import Recipe
from edgeattn.report.matrix import Named, Part, part_of
from edgeattn.report.schema import Report
from edgeattn.target import parse as parse_target

PRECISIONS: tuple[str, ...] = get_args(Recipe.model_fields["precision"].annotation)
_SCHEMES = {"fp32": "null", "fp16": "{scheme: fp16}", "bf16": "{scheme: bf16}", "int8": "{scheme: int8-static}"}
_ONE_PRECISION = ("int8_share", "size_ratio")
_GRACE_S = 2.0  # for a part that was asked to stop; whoever stopped this process waits no longer than 3 s


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
        if name not in PRECISIONS:
            raise UnknownName("precision", name, PRECISIONS, where="--precisions")
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


def dropped_gates(recipe: Recipe, precisions: Sequence[str]) -> str:
    """A line about gates that the recipe's own precision has and the others are not held to; empty without any."""
    others = [p for p in precisions if p != recipe.precision]
    gates = [name for name in _ONE_PRECISION if getattr(recipe.gates, name) is not None]
    if not others or not gates:
        return ""
    return f"the recipe asks for {' and '.join(gates)} of {recipe.precision}: not asked of {', '.join(others)}"


def _asked(recipe: Recipe, target: str, precision: str) -> Asked:
    settings = [f"target={target}"]
    if precision != recipe.precision:
        settings += [f"precision={precision}", f"quantize={_SCHEMES[precision]}"]
        settings += [f"gates.{name}=null" for name in _ONE_PRECISION]
    engine, device = parse_target(target)
    if recipe.engine and engine != parse_target(recipe.target)[0]:
        settings.append("engine={}")
    if recipe.profile and not registry.get("backends", engine).profiled:
        settings.append("profile=[]")
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


def build(
    part: Asked,
    recipe: str,
    settings: Sequence[str],
    folder: Path,
    shelf: Path,
    timeout: float,
    listen: Callable[[str], None],
) -> Part:
    """Run one part in a process of its own, and wait for what becomes of it.

    Args:
        part: what to run. recipe: the recipe as the user named it. settings: the user's own ``--set`` values.
        folder: where the part's directory goes, whole or not at all. shelf: where parts share finished stages.
        timeout: seconds it may take, 0 for as long as it likes.
        listen: hears its progress, a line a step.
    """
    command = [sys.executable, "-m", "edgeattn", "run", recipe, "--out", str(folder / part.name), "--shelf", str(shelf)]
    command += [word for setting in (*settings, *part.settings) for word in ("--set", setting)]
    started = time.perf_counter()
    code, last = _watched([*command, "--timeout", f"{timeout:g}"], listen)
    seconds = time.perf_counter() - started
    written = folder / part.name / "report.json"
    if written.exists():
        return part_of(part.name, part.target, part.precision, Report.read(written), code, seconds)
    told = _word_left(shelf / f"{part.name}.json")
    refused = bool(told.get("refused"))
    reason = str(told.get("reason") or last or f"ended with exit code {code} and not a word")
    return Part(
        name=part.name,
        target=Named(requested=part.target),
        precision=Named(requested=part.precision),
        status="refused" if refused else "failed",
        reason=reason.removeprefix(f"{part.target}: ").removeprefix("graph '*': "),  # the line names the target
        hint=told.get("hint", ""),
        exit_code=code or 70,
        seconds=seconds,
    )


def _watched(command: Sequence[str], listen: Callable[[str], None]) -> tuple[int, str]:
    """Run a command to its end: its exit code, and its last error line."""
    last = ""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=partial(worker.die_with, os.getpid()),  # one thread, and nothing to import
    )
    assert process.stderr is not None
    with _ended_with_us(process):
        for line in process.stderr:
            if line.startswith(_ERROR):
                last = line.removeprefix(_ERROR).strip()
            elif line.strip() and not line.startswith(_WRITTEN):
                listen(line.strip())
        code = process.wait()
    return 128 - code if code < 0 else code, last


_ERROR = "edgeattn: error: "
_WRITTEN = "written: "  # under a name that it has only until all parts are there


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever ends this block ends the process; ours sweeps up behind itself when it is asked to stop."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


@contextlib.contextmanager
def leaving_word(shelf: Path | None, out: Path) -> Iterator[None]:
    """An error of a part is also left on the shelf, in pieces: the one line on stderr is made for people."""
    try:
        yield
    except EdgeattnError as error:
        if shelf is not None:
            refused = isinstance(error, Unsupported) and not isinstance(error, EngineFailed)
            where = f"{printable(error.where)}: " if error.where else ""
            told = {"refused": refused, "reason": f"{where}{error.what}", "hint": error.hint}
            with contextlib.suppress(OSError):  # the line on stderr is left
                (shelf / f"{out.name}.json").write_text(json.dumps(told), encoding="utf-8")
        raise


def _word_left(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {}


def judged_again(part: Part, folder: Path, baseline: Path | None) -> Part:
    """A part judged by its own recipe anew, its bundle verified; one that was not built stays what it was.

    Args:
        part: of the matrix in ``folder``. baseline: an earlier matrix, or run, that it must not fall behind.

    Raises:
        BadInput: its directory is not a run any more.
    """
    if part.verdict is None:
        return part
    earlier = _earlier(part, baseline)
    try:
        found = outcome.judged_again(folder / part.name, earlier)
    except IntegrityError as error:
        update = {"status": "failed", "verdict": None, "reason": f"{error.where}: {error.what}", "hint": error.hint}
        return part.model_copy(update={**update, "exit_code": error.exit_code})
    code = VERDICT_CODES[found.verdict]
    asked = (part.name, part.target.requested, part.precision.requested)
    return part_of(*asked, found, code, part.seconds)


def _earlier(part: Part, baseline: Path | None) -> Report | None:
    """The same part of an earlier matrix; None where it was not in it, or not built."""
    if baseline is None:
        return None
    if not baseline.is_dir():
        return Report.read(baseline)
    place = baseline / part.name / "report.json"
    alone = baseline / "report.json"
    return Report.read(place) if place.exists() else Report.read(alone) if alone.exists() else None
