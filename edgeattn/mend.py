"""Mend what a target would refuse: the rewrite, the sizes, the precision and the opset that its findings name.

Each finding names its mend: ``shapes``, ``rewrite:fold_constants``, ``expand:Gelu``, ``scheme:fp16``, ``opset:17``,
``names``. They are applied in that order, since a rewrite wants the newest opset and FP32, and a conversion of the
opset the final graph. The result is looked at again after each, and judged in the end against the graph it came from,
on the same inputs, in an engine without optimisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeattn import backends, capabilities, decode, graphs, respell
from edgeattn.errors import UsageError
from edgeattn.harness.parity import Limits, judge
from edgeattn.program import Program, StageRecord

if TYPE_CHECKING:
    import onnx

    from edgeattn.capabilities import Finding
    from edgeattn.report.schema import StageParity

_KINDS = ("shapes", "rewrite", "expand", "scheme", "opset", "names")
_NEEDS_DATA = ("scheme:int8-static",)  # told, and left to the user, who has the data


@dataclass(frozen=True)
class Mended:
    """A program after its mends.

    Attributes:
        program: the mended graphs. applied: the mends, in order. left: what the target would still refuse.
        parity: against the graphs as they were.
    """

    program: Program
    applied: tuple[str, ...]
    left: tuple[Finding, ...]
    parity: StageParity


def mend(
    program: Program,
    target: str,
    precision: str,
    sizes: Mapping[str, int] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Mended:
    """Apply the mends of every finding until none is left that has one.

    Args:
        program: graphs with a reference to judge by. target, precision: as :func:`edgeattn.capabilities.findings`.
        sizes: dimension -> size, for targets that take static shapes only; ``batch`` is 1 where it is not given.
        progress: called with a line for each mend.

    Raises:
        UsageError: a dynamic dimension that no size was given for. Unsupported: a mend that cannot be done.
    """
    found, applied = capabilities.findings(program.graphs, target, precision), list[str]()
    current, limits = program, Limits.rewrite()
    while wanted := _next(found, applied):
        progress(f"mend: {', '.join(wanted)}")
        applied += wanted
        current = _applied(current, wanted, sizes or {})
        limits = next((Limits.of(w.partition(":")[2]) for w in wanted if w.startswith("scheme:")), limits)
        found = capabilities.findings(current.graphs, target, precision)
    progress("judge the mended graphs")
    return Mended(current, tuple(applied), tuple(found), _judged(current, limits))


def _next(found: Sequence[Finding], applied: Sequence[str]) -> list[str]:
    """The mends to do now: those of one kind at a time, in the order in which they do not disturb each other."""
    mends = [m for m in dict.fromkeys(f.mend for f in found if f.mend) if m not in applied]
    for kind in _KINDS:
        same = [m for m in mends if m.partition(":")[0] == kind and m not in _NEEDS_DATA]
        if same:
            return same if kind not in ("scheme", "opset") else same[:1]
    return []


def _applied(program: Program, wanted: Sequence[str], sizes: Mapping[str, int]) -> Program:
    kind = wanted[0].partition(":")[0]
    what = [mend.partition(":")[2] for mend in wanted]
    if kind == "shapes":
        return _rewritten(program, ["fix_sizes", "fold_constants"], _sizes(program, sizes))
    if kind == "rewrite":
        return _rewritten(program, what, None)
    if kind == "scheme":
        from edgeattn.quantize import quantize

        return quantize(program, what[0], backends.oracle, ())
    if kind == "expand":
        spelled = _respelled(program, wanted, lambda model: respell.expanded(model, what))
        return _rewritten(spelled, ["fold_constants", "remove_noops"], None)
    if kind == "opset":
        return _respelled(program, wanted, lambda model: respell.to_opset(model, int(what[0])))
    return _respelled(program, wanted, respell.with_own_names)


def _rewritten(program: Program, rules: Sequence[str], sizes: Mapping[str, int] | None) -> Program:
    from edgeattn.rewrite import rewrite

    return rewrite(program, backends.oracle, only=rules, sizes=sizes)


def _respelled(
    program: Program, wanted: Sequence[str], change: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> Program:
    """Every graph changed, with a record of it."""
    started = time.perf_counter()
    changed = {name: change(model) for name, model in program.graphs.items()}
    record = StageRecord("respell", time.perf_counter() - started, {"mends": list(wanted)})
    return program.after(record, graphs=changed)


def _sizes(program: Program, given: Mapping[str, int]) -> dict[str, int]:
    """A size for every dynamic dimension of the program's inputs."""
    names: dict[str, None] = {}
    for spec in graphs.program_inputs(program):
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                names[dim if dim != "?" else f"{spec.name}:{axis}"] = None
    sizes = {"batch": 1, **given}
    missing = [name for name in names if name not in sizes]
    if missing:
        hint = "give " + " ".join(f"--size {name}=N" for name in missing)
        raise UsageError(f"no size for dimension {', '.join(missing)}", where="--fix", hint=hint)
    return {name: size for name, size in sizes.items() if name in names or name in given}


def _judged(program: Program, limits: Limits) -> StageParity:
    assert program.reference is not None
    sessions = backends.rounded(program)

    def run(case: Any) -> Mapping[str, Any]:
        return decode.run(sessions, program.wiring, case.feeds, case.tokens)

    return judge("mend", run, program.reference.cases, limits)
