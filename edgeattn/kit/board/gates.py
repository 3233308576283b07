"""What must hold on the board for the verdict ``pass``, among the gates that came with the kit.

The board can judge parity, effective precision and size, and whether it is the board the kit was made for. The rest
(accuracy on held-out data, speed against PyTorch) needs what is not there, and is said to be not judged.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

JUDGED = ("precision", "parity", "int8_share", "size_ratio")
HALF_OF_THE_WORK = 0.5
Gate = Dict[str, Any]


def judge(report: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Gate]:
    """The gates of a report, in the order they are printed; those that the board cannot judge are ``n/a``."""
    board, wanted = report["board"], {name: limit for name, limit in asked.items() if _on(limit)}
    gates = [_board(board)]
    for name, limit in wanted.items():
        if name == "parity":
            gates.append(_parity(report["parity"]["outputs"]))
        elif name not in JUDGED:
            gates.append(_open(name, limit, "not judged on the board: it takes what is not there"))
        elif board["rehearsal"]:
            gates.append(_open(name, limit, "not judged here: a rehearsal has no engine"))
        elif name == "precision":
            gates.append(_precision(report["precision"], "int8_share" in wanted))
        elif name == "int8_share":
            gates.append(_bound(name, report["precision"]["int8_share"], limit, 1))
        else:
            size = report["size"]
            ratio = size["engine_bytes"] / size["reference_bytes"] if size["reference_bytes"] else None
            gates.append(_bound(name, ratio, limit, -1))
    return gates


def verdict(gates: list[Gate]) -> str:
    """fail, else inconclusive, else pass."""
    found = [gate["verdict"] for gate in gates]
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def _on(limit: Any) -> bool:
    return limit is not None and limit is not False


def _board(board: Mapping[str, Any]) -> Gate:
    why = ""
    if board["rehearsal"]:
        why = "a rehearsal on {}: nothing here is a board's".format(board["library"])
    elif not board["jetson"]:
        why = "no Jetson: this machine calls itself '{}'".format(board["name"])
    elif not board["version_fits"]:
        why = "built by another TensorRT than the kit was made for"
    seen = " ".join(filter(None, [board["name"], board["l4t"], board["library"], board["version"]]))
    return _gate("board", board["wanted"], seen, "inconclusive" if why else "pass", why)


def _parity(outputs: Mapping[str, Any]) -> Gate:
    failed = [name for name, out in outputs.items() if out["verdict"] == "fail"]
    judged = [name for name, out in outputs.items() if out["verdict"] != "n/a"]
    seen = f"{len(judged) - len(failed)} of {len(outputs)} outputs within limits"
    if failed:
        out = outputs[failed[0]]
        why = "{}: {} on case '{}', limit {}".format(failed[0], out["observed"], out["worst_case"], out["limit"])
        return _gate("parity", True, seen, "fail", why)
    return _gate("parity", True, seen, "pass" if judged else "fail", "" if judged else "no output could be judged")


def _precision(found: Mapping[str, Any], share_is_asked: bool) -> Gate:
    least = 0.0 if share_is_asked else 1.0 if found["requested"] == "fp32" else HALF_OF_THE_WORK
    if found["effective"] == "no weighted operator":
        fine = found["requested"] == "fp32"
        why = "no operator with weights that could run in {}".format(found["requested"])
        return _gate("precision", least, None, "pass" if fine else "fail", why)
    share: float | None = found["share"]
    if share is None:
        why = "the engine did not tell what runs in {}: nothing shows that this holds".format(found["requested"])
        return _gate("precision", least, None, "fail", why)
    fine = share >= least - 1e-9 and share > 0
    why = "" if fine else "asked for {}, runs in {}".format(found["requested"], found["effective"])
    return _gate("precision", least or "> 0 %", share, "pass" if fine else "fail", why)


def _open(name: str, limit: Any, why: str) -> Gate:
    return _gate(name, "asked" if limit is True else limit, None, "n/a", why)


def _bound(name: str, seen: float | None, limit: float, sign: int) -> Gate:
    if seen is None:
        return _gate(name, limit, None, "fail", "it is not known: nothing shows that this holds")
    return _gate(name, limit, seen, "pass" if sign * seen >= sign * limit else "fail")


def _gate(name: str, limit: Any, observed: Any, found: str, why: str = "") -> Gate:
    return {"name": name, "unit": "share", "limit": limit, "observed": observed, "why": why, "verdict": found}
