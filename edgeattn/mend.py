"""Mend what a target would refuse: the rewrite, the sizes, the precision and the opset that its findings name.

Each finding names its mend (``rewrite:fold_constants``, ``shapes``, ``scheme:fp16``, ``opset:17``); they are applied in
that order, since a rewrite wants the newest opset and FP32, and a conversion of the opset the final graph. The result
is looked at again and judged against the graph it came from, on the same inputs, in an engine without optimisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeattn import backends, capabilities, decode, graphs
from edgeattn.errors import Unsupported, UsageError
from edgeattn.harness.parity import Limits, judge
from edgeattn.program import Program, StageRecord

if TYPE_CHECKING:
    import onnx

    from edgeattn.capabilities import Finding
    from edgeattn.report.schema import StageParity

_SCHEMES = ("fp16", "bf16")


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
    """The mends to do now: all rewrites and sizes at once, else a scheme, else an opset."""
    mends = [m for m in dict.fromkeys(f.mend for f in found if f.mend) if m not in applied]
    first = [m for m in mends if m.startswith("rewrite:") or m == "shapes"]
    schemes = [m for m in mends if m.partition(":")[2] in _SCHEMES]
    opsets = [m for m in mends if m.startswith("opset:")]
    return first or schemes[:1] or opsets[:1]


def _applied(program: Program, wanted: Sequence[str], sizes: Mapping[str, int]) -> Program:
    kind, _, what = wanted[0].partition(":")
    if kind == "scheme":
        from edgeattn.quantize import quantize

        return quantize(program, what, backends.oracle, ())
    if kind == "opset":
        return _converted(program, int(what))
    from edgeattn.rewrite import rewrite

    rules = [w.partition(":")[2] for w in wanted if w.startswith("rewrite:")]
    fixed = _sizes(program, sizes) if "shapes" in wanted else None
    only = [*rules, *(["fix_sizes", "fold_constants"] if fixed else [])]
    return rewrite(program, backends.oracle, only=list(dict.fromkeys(only)), sizes=fixed)


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


def _converted(program: Program, opset: int) -> Program:
    """Every graph at an older opset."""
    started = time.perf_counter()
    converted = {name: to_opset(model, opset) for name, model in program.graphs.items()}
    record = StageRecord("convert", time.perf_counter() - started, {"opset": opset})
    return program.after(record, graphs=converted)


def to_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy at an older opset that computes the same, by ONNX's converter, and by ours from 18 to 17.

    Raises:
        Unsupported: an operator that has no such form there.
    """
    from edgeattn.downgrade import to_opset_17

    if graphs.opset_of(model) <= opset:
        return model
    if opset > 17 or graphs.opset_of(model) > 18:
        model = _by_onnx(model, max(opset, 18))
    return to_opset_17(model) if opset == 17 else model


def _by_onnx(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    from edgeattn.phase import native

    try:
        with native("ONNX", "converting the opset"):
            return version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises what it likes
        what = f"opset {graphs.opset_of(model)} cannot be converted to {opset}: {str(error).strip().splitlines()[-1]}"
        raise Unsupported(what, hint="export the model again with --opset 18") from error


def _judged(program: Program, limits: Limits) -> StageParity:
    assert program.reference is not None
    sessions = backends.rounded(program)

    def run(case: Any) -> Mapping[str, Any]:
        return decode.run(sessions, program.wiring, case.feeds, case.tokens)

    return judge("mend", run, program.reference.cases, limits)
