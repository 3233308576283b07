"""Parity: is the candidate the same function as PyTorch, on every case, at every output?

``judge`` runs a candidate over the reference's cases and reports each output's worst figures, which case they come
from, the limit, and a verdict. What it does where the usual figures mean nothing:

* A reference without signal (all zeros, or a millionth of what this output usually carries): there is no SQNR. The
  error is held against the output's usual RMS over all cases instead; an output that is zero in every case may err
  by 1e-4.
* A single element has no cosine; it is judged by SQNR, which is then its relative error.
* Nothing finite on both sides, with NaN and Inf in the same places: ``warn``, because nothing was compared.
* An INT8 engine was calibrated on real data; zeros, ones or large noise lie outside its range and saturate by design.
  Its signal is judged on cases named ``real…`` (else ``normal…``, else all). What the others show is told beside the
  verdict and does not change it, unless NaN or Inf appear that PyTorch does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.harness.limits import FP32_RELATIVE_FLOOR, Limits
from edgeattn.harness.metrics import Metrics, metrics, sqnr_db
from edgeattn.report.schema import OutputParity, SectionVerdict, StageParity, worst

if TYPE_CHECKING:
    from edgeattn.program import Array, Case

__all__ = ["Limits", "Metrics", "judge", "metrics", "stands_for_calibration"]

ZERO_OUTPUT_ATOL = 1e-4
NO_SIGNAL = 1e-6


@dataclass(frozen=True)
class _Finding:
    """One output of one case: its figures, verdict, what was seen, and how far it is past its limit (1 is on it)."""

    case: str
    figures: Metrics | None
    verdict: SectionVerdict
    observed: str
    why: str = ""
    severity: float = 0.0
    exact: bool = False


def judge(stage: str, run: Callable[[Case], Mapping[str, Array]], cases: Sequence[Case], limits: Limits) -> StageParity:
    """Run a candidate over all cases and judge every output.

    Args:
        stage: the stage the candidate comes from.
        run: the candidate; returns at least the outputs of ``case.outputs`` (more are ignored).
        cases: inputs with the oracle's outputs, and float64 ones where they exist.
        limits: what to ask.

    Returns:
        Worst figures per output over the cases that are judged, with the worst case named.
    """
    usual = _usual_rms(cases)
    judged = {c.name for c in cases if not limits.calibrated or stands_for_calibration(c, cases)}
    findings: dict[str, list[_Finding]] = {}
    for case in cases:
        produced = run(case)
        for name, ref in case.outputs.items():
            finding = _find(case, name, np.asarray(ref), produced, limits.for_output(name), usual[name])
            findings.setdefault(name, []).append(finding)
    outputs = {name: _worst_of(found, judged, limits.for_output(name)) for name, found in findings.items()}
    return StageParity(stage=stage, case_count=len(cases), outputs=outputs)


def stands_for_calibration(case: Case, cases: Sequence[Case]) -> bool:
    """Whether a quantized engine's signal is judged on this case: ``real…``, else ``normal…``, else all."""
    for prefix in ("real", "normal"):
        if any(c.name.startswith(prefix) for c in cases):
            return case.name.startswith(prefix)
    return True


def _find(
    case: Case, name: str, ref: Array, produced: Mapping[str, Array], limits: Limits, usual_rms: float
) -> _Finding:
    if name not in produced:
        given = ", ".join(sorted(produced)) or "nothing"
        return _Finding(case.name, None, "fail", "no such output", f"the candidate gives {given}", np.inf)
    out = np.asarray(produced[name])
    if out.shape != ref.shape:
        return _Finding(case.name, None, "fail", f"shape {out.shape}", f"expected shape {ref.shape}", np.inf)
    if _exact(ref) != _exact(out):
        return _Finding(case.name, None, "fail", f"dtype {out.dtype}", f"expected {ref.dtype}", np.inf)
    if not ref.size:
        return _Finding(case.name, None, "n/a", "no elements")
    if _exact(ref):
        return _find_exact(case.name, ref, out)
    golden = case.golden.get(name)
    golden = None if golden is None or np.shape(golden) != ref.shape else np.asarray(golden)
    return _find_float(case.name, ref, out, metrics(ref, out, golden), limits, usual_rms, _sensitivity(case, name))


def _sensitivity(case: Case, name: str) -> float:
    """How far an output moves when every weight is rounded once more; 0 where nobody tried."""
    if name not in case.rounded or name not in case.golden:
        return 0.0
    moved = np.abs(np.asarray(case.rounded[name]) - np.asarray(case.golden[name]))
    return float(moved[np.isfinite(moved)].max(initial=0.0))


def _find_exact(case: str, ref: Array, out: Array) -> _Finding:
    wrong = int(np.count_nonzero(ref != out))
    figures = metrics(ref, out) if ref.dtype.kind in "biu" else None
    seen, why = f"{wrong} of {ref.size} differ", "must be equal" if wrong else ""
    return _Finding(case, figures, "fail" if wrong else "pass", seen, why, float(wrong), exact=True)


def _find_float(
    case: str, ref: Array, out: Array, m: Metrics, limits: Limits, usual_rms: float, sensitivity: float
) -> _Finding:
    if m.nonfinite:
        why = f"NaN or Inf differ in {m.nonfinite} of {m.size} elements"
        return _Finding(case, m, "fail", why, "NaN and Inf must sit where the reference has them", np.inf)
    if m.max_abs is None:
        return _Finding(
            case, m, "warn", "no finite element", "the reference is NaN or Inf throughout: nothing compared"
        )
    checks = [
        *(_elementwise(ref, out, m, limits) if limits.atol is not None else ()),
        *(_against_golden(m, limits, sensitivity) if limits.golden_floor is not None else ()),
        *(_signal(m, limits, usual_rms) if limits.sqnr_db is not None or limits.cosine is not None else ()),
    ]
    if not checks:
        return _Finding(case, m, "pass", f"{m.max_abs:.2e}")
    verdict = worst(c[0] for c in checks)
    heaviest = max((c for c in checks if c[0] == verdict), key=lambda c: c[2])
    return _Finding(case, m, verdict, heaviest[1], heaviest[3], max(c[2] for c in checks))


_Check = tuple[SectionVerdict, str, float, str]  # verdict, what was seen, severity (1 is on the limit), why


def _elementwise(ref: Array, out: Array, m: Metrics, limits: Limits) -> list[_Check]:
    assert limits.atol is not None
    # A tolerance the user asked for is theirs to the letter; ours grows with the output's magnitude.
    atol = limits.atol if limits.name == "asked" else max(limits.atol, FP32_RELATIVE_FLOOR * m.ref_max)
    x, y = ref.astype(np.float64), out.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    allowed = atol + limits.rtol * np.abs(x[finite])
    error = np.abs(x[finite] - y[finite])
    used = float(np.max(np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)))
    seen = f"max error {m.max_abs:.2e}, {used:.2g} × the tolerance"
    if used <= 1:
        return [("pass", seen, used, "")]
    if limits.second_opinion is None or m.golden_error is None or m.ref_golden_error is None:
        return [("fail", seen, used, f"{int(np.count_nonzero(error > allowed))} of {m.size} elements past it")]
    bound = limits.second_opinion * m.ref_golden_error + FP32_RELATIVE_FLOOR * max(1.0, m.ref_max)
    said = f"error against float64 {m.golden_error:.2e}, the reference's own {m.ref_golden_error:.2e}"
    if m.golden_error <= bound:
        return [("pass", f"{seen}; {said}", 1.0, "past the tolerance, but no further from float64 than the reference")]
    return [("fail", f"{seen}; {said}", used, f"float64 bound is {bound:.2e}")]


def _against_golden(m: Metrics, limits: Limits, sensitivity: float) -> list[_Check]:
    assert limits.golden_floor is not None
    floor = max(limits.golden_floor, FP32_RELATIVE_FLOOR * m.ref_max)
    error = m.max_abs if m.golden_error is None else m.golden_error
    own = max(m.ref_golden_error or 0.0, sensitivity)
    assert error is not None
    bound = max(floor, limits.golden_factor * own)
    against = "PyTorch (no float64 values)" if m.golden_error is None else f"float64, FP32's own {own:.2e}"
    seen = f"error {error:.2e} against {against}"
    return [("pass" if error <= bound else "fail", seen, error / bound, "" if error <= bound else f"bound {bound:.2e}")]


def _signal(m: Metrics, limits: Limits, usual_rms: float) -> list[_Check]:
    if m.ref_rms <= NO_SIGNAL * usual_rms:
        return [_without_signal(m, limits, usual_rms)]
    assert m.sqnr_db is not None
    checks = []
    if limits.sqnr_db is not None:
        checks.append(_decibels(m.sqnr_db, limits, f"SQNR {m.sqnr_db:.1f} dB"))
    if limits.cosine is not None and m.cosine is not None:
        low = m.cosine < limits.cosine
        used = (1 - m.cosine) / max(1 - limits.cosine, 1e-12)
        why = f"cosine {m.cosine:.4f} < {limits.cosine:g}" if low else ""
        checks.append(("fail" if low else "pass", f"cosine {m.cosine:.4f}", used, why))
    return checks


def _without_signal(m: Metrics, limits: Limits, usual_rms: float) -> _Check:
    assert m.max_abs is not None
    if usual_rms == 0.0:
        fine = m.max_abs <= ZERO_OUTPUT_ATOL
        why = f"the reference is zero in every case: at most {ZERO_OUTPUT_ATOL:g} allowed"
        return ("pass" if fine else "fail", f"max error {m.max_abs:.2e}", m.max_abs / ZERO_OUTPUT_ATOL, why)
    level = sqnr_db(usual_rms, m.error_rms)
    shown = f"no signal here; error {level:.1f} dB below the output's usual level"
    verdict, seen, severity, why = _decibels(level if level is not None else 0.0, limits, shown)
    return (verdict, seen, severity, why)


def _decibels(level: float, limits: Limits, seen: str) -> _Check:
    wanted = limits.sqnr_db if limits.sqnr_db is not None else 0.0
    failing = limits.sqnr_fail_db if limits.sqnr_fail_db is not None else wanted
    verdict: SectionVerdict = "fail" if level < failing else "warn" if level < wanted else "pass"
    why = "" if verdict == "pass" else f"{level:.1f} dB < {failing if verdict == 'fail' else wanted:g} dB"
    return (verdict, seen, float(10 ** ((wanted - level) / 20)), why)


def _structural(finding: _Finding) -> bool:
    """Whether a finding counts outside the calibrated range too: missing, mis-shaped, not equal, NaN or Inf."""
    m = finding.figures
    return finding.exact or m is None or m.nonfinite > 0


def _worst_of(findings: Sequence[_Finding], judged: set[str], limits: Limits) -> OutputParity:
    binding = [f for f in findings if f.case in judged or _structural(f)]
    verdict = worst(f.verdict for f in binding)
    chief = max((f for f in binding if f.verdict == verdict), key=lambda f: (f.case in judged, f.severity))
    # Figures are those of the cases the verdict rests on; NaN and Inf count everywhere.
    figures = [f.figures for f in findings if f.figures is not None and f.case in judged]
    return OutputParity(
        max_abs=_most(m.max_abs for m in figures),
        mean_abs=_most(m.mean_abs for m in figures),
        sqnr_db=_least(m.sqnr_db for m in figures),
        cosine=_least(m.cosine for m in figures),
        nonfinite=sum(f.figures.nonfinite for f in findings if f.figures is not None),
        limit="equal" if all(f.exact for f in findings) else str(limits),
        observed=chief.observed,
        verdict=verdict,
        why="; ".join(filter(None, [chief.why, _informative([f for f in findings if f not in binding])])),
        worst_case=chief.case,
    )


def _informative(findings: Sequence[_Finding]) -> str:
    """What cases outside the calibrated range show, in words; nothing where they are within the limits anyway."""
    past = [f for f in findings if f.verdict in ("fail", "warn")]
    if not past:
        return ""
    furthest = max(past, key=lambda f: f.severity)
    return f"not judged, outside the calibrated range: {furthest.observed} on '{furthest.case}'"


def _usual_rms(cases: Sequence[Case]) -> dict[str, float]:
    """Each output's RMS over the finite elements of all cases; calibration cases alone where there are any."""
    levels: dict[str, list[float]] = {}
    for case in cases:
        for name, ref in case.outputs.items():
            found = levels.setdefault(name, [])
            array = np.asarray(ref)
            if array.size and not _exact(array) and stands_for_calibration(case, cases):
                found.append(metrics(array, array).ref_rms)
    return {name: float(np.sqrt(np.mean(np.square(rms)))) if rms else 0.0 for name, rms in levels.items()}


def _exact(array: Array) -> bool:
    """Integers, booleans and strings are compared for equality; everything else in float64."""
    return array.dtype.kind in "biuOSU"


def _most(values: Any) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _least(values: Any) -> float | None:
    return min((v for v in values if v is not None), default=None)
