"""One recipe for several targets: what is asked, and a process of its own for each part of it.

A part is the run that ``edgeattn run RECIPE --set target=… --set precision=…`` would be, in a process of its own: a
builder that dies takes no other part along, and its memory is its own. What parts have in common is done once
(:mod:`edgeattn.shelf`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeattn import outcome, worker
from edgeattn.errors import (
    VERDICT_CODES,
    EdgeattnError,
    EngineFailed,
    IntegrityError,
    Unsupported,
    printable,
)
from edgeattn.parts import Asked
from edgeattn.report.matrix import Named, Part, part_of
from edgeattn.report.schema import Report

_ERROR = "edgeattn: error: "
_WRITTEN = "written: "  # under a name that it has only until all parts are there
_GRACE_S = 2.0  # for a part that was asked to stop; whoever stopped this process waits no longer than 3 s


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
        env={**os.environ, worker.PARENT: str(os.getpid())},
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
