"""Are the board's answers the reference's? Judged as edgeattn judges them, by the limits that came with the kit.

    fp32       error against float64 ≤ max(floor, factor × the reference's own error); the floor is 1e-4, or a millionth
               of an output's largest value where that is more. Without float64 values: against the reference.
    the rest   SQNR = 20·log10(‖x‖/‖x−y‖) in dB, and for INT8 the cosine too, over the cases like those that it was
               calibrated on; other cases are run, told, and fail through NaN or Inf alone.

At every precision NaN and ±Inf must sit in the same places, and integers must be equal. edgeattn judges the same
outputs again when the report comes back, so that neither side's arithmetic is taken on trust.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

Array = Any
Arrays = Dict[str, Any]
NO_SIGNAL, ZERO_OUTPUT, RELATIVE_FLOOR, CAP_DB = 1e-6, 1e-4, 1e-6, 200.0
_ORDER = ("fail", "inconclusive", "warn", "pass", "n/a")


class Case(NamedTuple):
    """One set of inputs with the reference's answers.

    Attributes:
        golden: the answers in float64, where there are any. own: how far the reference is from them, by output.
    """

    name: str
    feeds: Arrays
    tokens: Array | None
    outputs: Arrays
    golden: Arrays
    own: dict[str, float]


class Seen(NamedTuple):
    """One output of one case."""

    case: str
    verdict: str
    observed: str
    why: str
    severity: float  # 1 is on the limit
    figures: dict[str, Any]
    exact: bool


def read_cases(path: Any, told: Sequence[Mapping[str, Any]]) -> list[Case]:
    """The cases of a kit: arrays of ``goldens.npz`` under the names that kit.json lists in order."""
    cases = []
    with np.load(str(path), allow_pickle=False) as arrays:
        for i, case in enumerate(told):
            parts = {
                kind: {name: arrays[f"c{i}.{kind}.{j}"] for j, name in enumerate(case[kind])}
                for kind in ("feeds", "outputs", "golden")
            }
            tokens = arrays[f"c{i}.tokens"] if case["tokens"] else None
            cases.append(Case(case["name"], parts["feeds"], tokens, parts["outputs"], parts["golden"], case["own"]))
    return cases


def judge(cases: Sequence[Case], answers: Sequence[Arrays], limits: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every output, worst over its cases, as the report's ``parity.outputs``."""
    usual = _usual_rms(cases)
    judged = {case.name for case in cases if not limits["calibrated"] or _like_calibration(case.name, cases)}
    found: dict[str, list[Seen]] = {}
    for case, given in zip(cases, answers):
        for name, ref in case.outputs.items():
            found.setdefault(name, []).append(_see(case, name, ref, given, limits, usual[name]))
    return {name: _worst(seen, judged, limits) for name, seen in found.items()}


def worst(verdicts: Iterable[str]) -> str:
    """The most severe."""
    known = set(verdicts)
    return next((v for v in _ORDER if v in known), "n/a")


def _like_calibration(name: str, cases: Sequence[Case]) -> bool:
    for prefix in ("real", "normal"):
        if any(case.name.startswith(prefix) for case in cases):
            return name.startswith(prefix)
    return True


def _see(case: Case, name: str, ref: Array, given: Arrays, limits: Mapping[str, Any], usual: float) -> Seen:
    if name not in given:
        return Seen(case.name, "fail", "no such output", "the engine gives " + ", ".join(given), np.inf, {}, False)
    out = np.asarray(given[name])
    if out.shape != ref.shape:
        why = f"expected shape {ref.shape}"
        return Seen(case.name, "fail", f"shape {out.shape}", why, np.inf, {}, False)
    if _exact(ref):
        wrong = int(np.count_nonzero(ref != out))
        told = f"{wrong} of {ref.size} differ"
        figures = distance(ref, out)
        why = "must be equal" if wrong else ""
        return Seen(case.name, "fail" if wrong else "pass", told, why, float(wrong), figures, True)
    if not ref.size:
        return Seen(case.name, "n/a", "no elements", "", 0.0, {}, False)
    golden = case.golden.get(name)
    m = distance(ref, out, golden)
    if m["nonfinite"]:
        told = "NaN or Inf differ in {} of {} elements".format(m["nonfinite"], ref.size)
        why = "NaN and Inf must sit where the reference has them"
        return Seen(case.name, "fail", told, why, np.inf, m, False)
    if m["max_abs"] is None:
        return Seen(case.name, "warn", "no finite element", "nothing could be compared", 0.0, m, False)
    checks = [_against_golden(m, case.own.get(name, 0.0), limits)] if limits["golden_floor"] is not None else []
    if limits["sqnr_db"] is not None or limits["cosine"] is not None:
        checks += _signal(m, limits, usual)
    verdict = worst(check[0] for check in checks)
    heaviest = max((check for check in checks if check[0] == verdict), key=lambda check: check[2])
    return Seen(case.name, verdict, heaviest[1], heaviest[3], max(check[2] for check in checks), m, False)


_Check = Tuple[str, str, float, str]  # verdict, what was seen, severity, why


def _against_golden(m: Mapping[str, Any], own: float, limits: Mapping[str, Any]) -> _Check:
    error = m["max_abs"] if m["golden_error"] is None else m["golden_error"]
    floor = max(limits["golden_floor"], RELATIVE_FLOOR * m["ref_max"])
    bound = max(floor, limits["golden_factor"] * own)
    against = "the reference" if m["golden_error"] is None else f"float64, FP32's own {own:.2e}"
    fine = error <= bound
    seen = f"error {error:.2e} against {against}"
    return ("pass" if fine else "fail", seen, error / bound, "" if fine else f"bound {bound:.2e}")


def _signal(m: Mapping[str, Any], limits: Mapping[str, Any], usual: float) -> list[_Check]:
    if m["ref_rms"] <= NO_SIGNAL * usual:
        if usual == 0.0:
            fine = m["max_abs"] <= ZERO_OUTPUT
            why = f"the reference is zero in every case: at most {ZERO_OUTPUT:g} allowed"
            said = "max error {:.2e}".format(m["max_abs"])
            return [("pass" if fine else "fail", said, m["max_abs"] / ZERO_OUTPUT, why)]
        level = _decibels(usual, m["error_rms"]) or 0.0
        said = f"no signal here; error {level:.1f} dB below the output's usual level"
        return [_level(level, limits, said)]
    checks = []
    if limits["sqnr_db"] is not None:
        checks.append(_level(m["sqnr_db"], limits, "SQNR {:.1f} dB".format(m["sqnr_db"])))
    if limits["cosine"] is not None and m["cosine"] is not None:
        low = m["cosine"] < limits["cosine"]
        why = "cosine {:.4f} < {:g}".format(m["cosine"], limits["cosine"]) if low else ""
        used = (1 - m["cosine"]) / max(1 - limits["cosine"], 1e-12)
        checks.append(("fail" if low else "pass", "cosine {:.4f}".format(m["cosine"]), used, why))
    return checks


def _level(level: float, limits: Mapping[str, Any], seen: str) -> _Check:
    wanted = limits["sqnr_db"] or 0.0
    failing = wanted if limits["sqnr_fail_db"] is None else limits["sqnr_fail_db"]
    verdict = "fail" if level < failing else "warn" if level < wanted else "pass"
    limit = failing if verdict == "fail" else wanted
    why = "" if verdict == "pass" else f"{level:.1f} dB < {limit:g} dB"
    return (verdict, seen, float(10 ** ((wanted - level) / 20)), why)


def distance(ref: Array, out: Array, golden: Array | None = None) -> dict[str, Any]:
    """How far two arrays of one shape are apart, in float64 over what is finite on both sides."""
    x, y = (np.asarray(value).astype(np.float64).reshape(-1) for value in (ref, out))
    g = None if golden is None or np.shape(golden) != np.shape(ref) else np.asarray(golden, np.float64).reshape(-1)
    nonfinite = int(np.count_nonzero(_kinds(x) != _kinds(y)))
    finite = np.isfinite(x) & np.isfinite(y)
    if g is not None:
        finite &= np.isfinite(g)
        g = g[finite]
    x, y = x[finite], y[finite]
    found: dict[str, Any] = {"max_abs": None, "mean_abs": None, "sqnr_db": None, "cosine": None}
    found.update({"nonfinite": nonfinite, "ref_rms": 0.0, "error_rms": 0.0, "ref_max": 0.0, "golden_error": None})
    if x.size:
        error = np.abs(x - y)
        found.update({"max_abs": float(error.max()), "mean_abs": float(error.mean())})
        found.update({"ref_rms": _rms(x), "error_rms": _rms(error), "cosine": _cosine(x, y)})
        found["sqnr_db"] = _decibels(found["ref_rms"], found["error_rms"])
        found["ref_max"] = float(np.abs(x if g is None else g).max())
        found["golden_error"] = None if g is None else float(np.abs(y - g).max())
    return found


def _worst(found: Sequence[Seen], judged: Iterable[str], limits: Mapping[str, Any]) -> dict[str, Any]:
    known = set(judged)
    binding = [s for s in found if s.case in known or s.exact or not s.figures or s.figures["nonfinite"]]
    verdict = worst(s.verdict for s in binding)
    chief = max((s for s in binding if s.verdict == verdict), key=lambda s: (s.case in known, s.severity))
    figures = [s.figures for s in found if s.figures and s.case in known]
    return {
        "max_abs": _extreme(max, figures, "max_abs"),
        "mean_abs": _extreme(max, figures, "mean_abs"),
        "sqnr_db": _extreme(min, figures, "sqnr_db"),
        "cosine": _extreme(min, figures, "cosine"),
        "nonfinite": sum(s.figures["nonfinite"] for s in found if s.figures),
        "limit": "equal" if all(s.exact for s in found) else limits["said"],
        "observed": chief.observed,
        "verdict": verdict,
        "why": "; ".join(filter(None, [chief.why, _elsewhere([s for s in found if s not in binding])])),
        "worst_case": chief.case,
    }


def _elsewhere(found: Sequence[Seen]) -> str:
    past = [s for s in found if s.verdict in ("fail", "warn")]
    if not past:
        return ""
    furthest = max(past, key=lambda s: s.severity)
    return f"not judged, outside the calibrated range: {furthest.observed} on '{furthest.case}'"


def _extreme(which: Any, figures: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return which((m[key] for m in figures if m[key] is not None), default=None)  # type: ignore[no-any-return]


def _usual_rms(cases: Sequence[Case]) -> dict[str, float]:
    levels: dict[str, list[float]] = {}
    for case in cases:
        for name, ref in case.outputs.items():
            known = levels.setdefault(name, [])
            if ref.size and not _exact(ref) and _like_calibration(case.name, cases):
                known.append(distance(ref, ref)["ref_rms"])
    return {name: float(np.sqrt(np.mean(np.square(rms)))) if rms else 0.0 for name, rms in levels.items()}


def _exact(array: Array) -> bool:
    return array.dtype.kind in "biu"


def _kinds(x: Array) -> Array:
    """0 finite, 1 NaN, 2 +Inf, 3 −Inf."""
    return np.select([np.isnan(x), np.isposinf(x), np.isneginf(x)], [1, 2, 3], 0)


def _rms(x: Array) -> float:
    top = float(np.abs(x).max())
    return top * float(np.sqrt(np.mean(np.square(x / top)))) if top else 0.0


def _decibels(signal: float, noise: float) -> float | None:
    if noise == 0.0:
        return CAP_DB if signal > 0.0 else None
    return min(CAP_DB, float(20.0 * (np.log10(signal) - np.log10(noise)))) if signal else None


def _cosine(x: Array, y: Array) -> float | None:
    if x.size < 2 or not x.any():
        return None
    if not y.any():
        return 0.0
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1.0, 1.0))
