"""A build kit that came back from a board: its report, held against the evidence beside it.

Nothing in ``report.json`` is taken on trust. The kit must be whole (MANIFEST), the report must be of this very kit and
unaltered, and so must what it rests on; then the board's answers are judged again by edgeattn's own parity, and the
median ratio is taken again from the timed rounds. A figure that they do not bear out is an integrity error. It all
shows damage, mix-ups and careless edits; it is no signature.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgeattn.arrays import stored
from edgeattn.errors import BadInput, IntegrityError, printable
from edgeattn.files import read_regular
from edgeattn.harness import parity
from edgeattn.harness.limits import Limits
from edgeattn.harness.resample import ratio
from edgeattn.kit.board import gates, verify
from edgeattn.kit.board.files import CONFIG, GOLDENS, OUTPUTS, REPORT, SAMPLES, Kit, sha256
from edgeattn.kit.board.refusal import INTEGRITY, Refused
from edgeattn.program import Case
from edgeattn.report import evidence
from edgeattn.report.schema import MAX_REPORT_BYTES, GateReport, Report
from edgeattn.report.strictjson import loads

if TYPE_CHECKING:
    from edgeattn.program import Array

_ROUNDING = 1e-6
"""Sums of another numpy and another CPU add up in another order; figures of float64 arrays agree to far more."""
_AGAIN = "run verify.py on the board again, and copy the whole directory back"


def is_kit(folder: Path) -> bool:
    """Whether a directory is a build kit, with or without a report."""
    return (folder / CONFIG).is_file() and not (folder / "manifest.json").exists()


def read(folder: Path) -> Report:
    """The report that a board left in a kit, its gates judged afresh.

    Raises:
        BadInput: no kit, no report yet, or one that cannot be read.
        IntegrityError: a file of the kit, the report or its evidence is not what it was, or belongs to another kit.
    """
    try:
        return _read(folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"the kit or its report is not as edgeattn writes it ({type(error).__name__}: {error})"
        raise BadInput(what, where=str(folder), hint=_AGAIN) from error


def _read(folder: Path) -> Report:
    kit = opened(folder)
    where = str(folder / REPORT)
    if not (folder / REPORT).exists():
        hint = "on the board: python3 verify.py; see README.txt"
        raise BadInput("no report came back yet", where=where, hint=hint)
    raw = loads(read_regular(folder / REPORT, MAX_REPORT_BYTES), where)
    found = Report.parse(json.dumps(raw), where)
    if found.board is None:
        raise BadInput("is not a board's report: it has no 'board'", where=where, hint=_AGAIN)
    _same_kit(found, raw, kit, where)
    _same_answers(found, kit, where)
    _same_rounds(found, folder, where)
    judged = [GateReport.model_validate(gate) for gate in gates.judge(raw, kit["gates"])]
    if (tuple(judged), gates.verdict([gate.model_dump() for gate in judged])) != (found.gates, found.verdict):
        _refuse("its verdict does not follow from its figures", where)
    return found


def opened(folder: Path) -> Kit:
    """The kit in a directory, every file as it was packed.

    Raises:
        BadInput, IntegrityError: in the kit's own words.
    """
    try:
        return Kit(folder)
    except Refused as refused:
        error = IntegrityError if refused.code == INTEGRITY else BadInput
        raise error(str(refused)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"is not a build kit: {error}", where=str(folder), hint="make it again") from None


def _same_kit(found: Report, raw: Mapping[str, Any], kit: Kit, where: str) -> None:
    """Whether the report is of this kit and nobody changed it since it was written."""
    board = found.board
    assert board is not None
    if board.kit != kit.id:
        _refuse(
            f"is of another kit ({printable(board.kit, 12)}; this is {kit.id[:12]}), of another model or setting", where
        )
    blank = {**raw, "board": {**raw["board"], "digest": ""}}
    if verify.digest(blank) != board.digest:
        _refuse("was altered after it was written: its digest differs", where)
    for name, expected in ((OUTPUTS, board.outputs), (SAMPLES, board.samples)):
        if not (kit.folder / name).is_file() or sha256(kit.folder / name) != expected:
            _refuse(f"rests on {name}, which is missing or not the one it was written with", where)


def _same_answers(found: Report, kit: Kit, where: str) -> None:
    """Judge the board's answers again, and hold every figure of the report against that."""
    goldens, answers = stored(kit.folder / GOLDENS), stored(kit.folder / OUTPUTS)
    cases = [_case(i, told, goldens) for i, told in enumerate(kit["cases"])]
    given = {
        case.name: {
            name: answers[key] for j, name in enumerate(case.outputs) if (key := f"c{i}.outputs.{j}") in answers
        }
        for i, case in enumerate(cases)
    }
    again = parity.judge("board", lambda case: given[case.name], cases, _limits(kit["limits"]))
    for name, expected in again.outputs.items():
        told = found.parity.outputs.get(name)
        if told is None or told.verdict != expected.verdict or told.nonfinite != expected.nonfinite:
            seen = "nothing" if told is None else told.verdict
            _refuse(f"says {seen} of output '{printable(name, 80)}', its answers say {expected.verdict}", where)
        for figure in ("max_abs", "mean_abs", "sqnr_db", "cosine"):
            if not _alike(getattr(told, figure), getattr(expected, figure)):
                _refuse(f"tells another {figure} of output '{printable(name, 80)}' than its answers have", where)


def _case(number: int, told: Mapping[str, Any], arrays: Mapping[str, Array]) -> Case:
    def named(kind: str) -> dict[str, Array]:
        return {name: arrays[f"c{number}.{kind}.{j}"] for j, name in enumerate(told[kind])}

    golden = named("golden")
    # What one more rounding of the weights makes is told as a number: any array that far from the answers has it.
    rounded = {name: golden[name] + own for name, own in told["own"].items()}
    return Case(told["name"], named("feeds"), None, named("outputs"), golden, rounded)


def _limits(told: Mapping[str, Any]) -> Limits:
    return Limits(**{name: value for name, value in told.items() if name != "said"})


def _same_rounds(found: Report, folder: Path, where: str) -> None:
    """Take the median ratio again from the rounds that were timed."""
    raw, _ = evidence.load(folder / SAMPLES)
    timed = found.latency
    if raw is None or timed is None:
        _refuse("has no timed rounds", where)
    if len(raw.engine_ms) != timed.rounds:
        _refuse(f"tells of {timed.rounds} rounds, {SAMPLES} has {len(raw.engine_ms)}", where)
    if timed.speedup.median is None:
        return
    for told, pair in (
        (timed.speedup, (raw.reference_ms, raw.engine_ms)),
        (timed.aa_control, (raw.engine_ms, raw.control_ms)),
    ):
        if not _alike(told.median, ratio(*pair, timed.seed).median):
            _refuse("tells another ratio than its timed rounds have", where)


def _alike(told: float | None, expected: float | None) -> bool:
    if told is None or expected is None:
        return told is expected
    return math.isclose(told, expected, rel_tol=_ROUNDING, abs_tol=1e-12)


def _refuse(what: str, where: str) -> NoReturn:
    raise IntegrityError(what, where=where, hint=_AGAIN)
