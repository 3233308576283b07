"""What the result of every rule must pass: the checker, its interface, its domains, and its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeattn import decode, graphs
from edgeattn.errors import BadInput, EngineFailed
from edgeattn.phase import native
from edgeattn.rewrite._apply import skeleton
from edgeattn.rewrite._conditioning import FACTOR
from edgeattn.rewrite._rule import ALLCLOSE, Exactness, Rule
from edgeattn.standard import all_nodes, foreign_nodes

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays, Opener, Program


@dataclass(frozen=True)
class Verdict:
    """Whether a rule's result stands: ``reason`` is empty if so; ``max_abs`` is the largest difference seen.

    ``note`` names a case on which the source itself is undetermined, and which says nothing about the rule.
    """

    reason: str
    max_abs: float
    note: str = ""


def broken(program: Program) -> str:
    """Why a graph is not valid ONNX, or an empty string; weights are left out of the check."""
    for name, model in program.graphs.items():
        try:
            with native("ONNX", "checking the graph"):
                onnx.checker.check_model(skeleton(model), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"graph '{name}' is not valid ONNX: {' '.join(lines[:2])}"
    return ""


def not_as_before(before: Program, after: Program) -> str:
    """How the outside of a program changed, or an empty string: names, order, dtypes and shapes count.

    An input that several graphs take is given once: one of them may stop taking it.
    """
    for side, old, new in zip(("inputs", "outputs"), _interface(before), _interface(after), strict=True):
        given = {value for values in new.values() for value in values} if side == "inputs" else set()
        left = {graph: [v for v in values if v in new[graph] or v not in given] for graph, values in old.items()}
        if left != new:
            return f"program {side} changed from {old} to {new}"
    for name, model in before.graphs.items():  # what one graph hands another may grow, never change
        old_outputs = [_typed(v) for v in model.graph.output]
        if [_typed(v) for v in after.graphs[name].graph.output][: len(old_outputs)] != old_outputs:
            return f"outputs of graph '{name}' changed from {old_outputs}"
    foreign = [op for model in after.graphs.values() for op in foreign_nodes(model)]
    return f"node '{foreign[0][0]}' has the domain '{foreign[0][1]}'" if foreign else ""


def not_reshaped(before: Program, after: Program) -> str:
    """What a program in a new form asks for that the old form did not, or an empty string.

    What is given as the decode loop's tokens need no longer be an input; that every output is there, and what it
    holds, the numbers say.
    """
    old = {s.name: s for s in graphs.program_inputs(before)}
    for spec in graphs.program_inputs(after):
        was = old.get(spec.name)
        sizes = zip(was.shape, spec.shape, strict=False) if was else ()
        same = all(a == b or isinstance(a, str) for a, b in sizes)  # a number may stand where a name stood
        if was is None or was.dtype != spec.dtype or len(was.shape) != len(spec.shape) or not same:
            return f"program input '{spec}' was {was or 'none'}"
    foreign = [op for model in after.graphs.values() for op in foreign_nodes(model)]
    return f"node '{foreign[0][0]}' has the domain '{foreign[0][1]}'" if foreign else ""


def outputs_of(program: Program, opener: Opener) -> list[dict[str, Array]]:
    """Every reference case run through an engine, in order."""
    assert program.reference is not None
    sessions = opener(program)
    results = []
    for case in program.reference.cases:
        try:
            results.append(dict(decode.run(sessions, program.wiring, case.feeds, case.tokens)))
        except (BadInput, EngineFailed) as error:
            raise type(error)(f"case '{case.name}': {error.what}", where=error.where, hint=error.hint) from error
    return results


def judge(
    expected: list[Arrays],
    actual: list[dict[str, Array]],
    names: list[str],
    exactness: Exactness,
    spread: Callable[[int], Mapping[str, float]] = lambda case: {},
) -> Verdict:
    """Compare case by case and output by output; the first failure is the reason.

    Args:
        expected, actual: outputs of each case. names: of the cases. exactness: the limits.
        spread: how far the source's own outputs move on a case by one unit in the last place of its inputs; asked for
            only where a limit is passed.
    """
    worst, unsure, judged = 0.0, [], set()
    for number, (name, want, have) in enumerate(zip(names, expected, actual, strict=True)):
        for output in want:
            if output not in have:
                return Verdict(f"case '{name}': output '{output}' is gone", worst)
            reason, error = _compare_any(want[output], have[output], exactness)
            own = spread(number).get(output, 0.0) if reason and error else 0.0
            if reason and not 0 < error <= FACTOR * own:
                return Verdict(f"case '{name}', output '{output}': {reason}", max(worst, error))
            if reason:
                unsure.append(f"'{name}' ({error:.1e}; one unit in the last place of its inputs moves it by {own:.1e})")
            else:
                judged.add(name)
                worst = max(worst, error)
    note = f"not judged by case {', '.join(unsure)}" if unsure else ""
    return Verdict("" if judged or not unsure else f"the source is undetermined on every case: {note}", worst, note)


def _compare_any(want: Any, have: Any, exactness: Exactness) -> tuple[str, float]:
    """``compare`` for outputs that may be sequences of tensors."""
    if not isinstance(want, list | tuple):
        return compare(np.asarray(want), np.asarray(have), exactness)
    if not isinstance(have, list | tuple) or len(have) != len(want):
        return f"expected a sequence of {len(want)} tensors", 0.0
    found = [_compare_any(ours, theirs, exactness) for ours, theirs in zip(want, have, strict=True)]
    return next((reason for reason, _ in found if reason), ""), max((error for _, error in found), default=0.0)


def compare(want: Array, have: Array, exactness: Exactness = ALLCLOSE) -> tuple[str, float]:
    """Why ``have`` is not ``want``, or an empty string, and the largest absolute difference.

    Floats may differ by ``atol * max(1, max|want|) + rtol * |want|``: additions are reordered inside sums whose
    terms are as large as the largest output, so cancellation leaves an error of that size. Masks of NaN and of
    ±Inf must be equal, unless the rule mends NaN. Integers, booleans and strings must be equal.
    """
    if want.shape != have.shape or want.dtype != have.dtype:
        return f"expected {want.dtype}{list(want.shape)}, got {have.dtype}{list(have.shape)}", 0.0
    if want.dtype.kind not in "fc":
        wrong = int((want != have).sum())
        return (f"{wrong} of {want.size} values differ, none may" if wrong else ""), float(wrong > 0)
    ours, theirs = have.astype(np.float64), want.astype(np.float64)
    judged = ~np.isnan(theirs) if exactness.mends_nan else np.ones(theirs.shape, bool)
    ours, theirs = ours[judged], theirs[judged]
    finite = np.isfinite(theirs)
    nonfinite_agree = np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
    if not (nonfinite_agree and np.isfinite(ours[finite]).all()):
        return "NaN or Inf at other places than expected", 0.0
    error = np.abs(ours[finite] - theirs[finite])
    magnitude = np.abs(theirs[finite])
    limit = exactness.atol * max(1.0, magnitude.max(initial=0.0)) + exactness.rtol * magnitude
    worst = float(error.max(initial=0.0))
    if (error > limit).any():
        return f"differs by {worst:.2e}, allowed {float(limit[np.argmax(error - limit)]):.2e}", worst
    return "", worst


def limits_of(rule: Rule) -> Exactness:
    """Every rule is held to the stage's limits; a rule may only say that it mends NaN."""
    return Exactness("allclose", 1e-5, 1e-4, mends_nan=rule.exactness.mends_nan)


def operators(program: Program) -> dict[str, Any]:
    """Domains in use, and how often each operator occurs."""
    nodes = [node for model in program.graphs.values() for node in all_nodes(model.graph)]
    return {
        "domains": sorted({node.domain or "ai.onnx" for node in nodes}),
        "histogram": dict(sorted(Counter(node.op_type for node in nodes).items())),
    }


def node_count(program: Program) -> int:
    """Nodes in all graphs and their subgraphs."""
    return sum(1 for model in program.graphs.values() for _ in all_nodes(model.graph))


def _interface(program: Program) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Inputs that no edge feeds and outputs that leave the program, as text, by graph."""
    fed = set() if program.wiring is None else {*program.wiring.feeds, *program.wiring.state}
    inputs = {
        graph: [_typed(v) for v in model.graph.input if f"{graph}.{v.name}" not in fed]
        for graph, model in program.graphs.items()
    }
    leaving = program.graphs if program.wiring is None else [program.wiring.loop]
    outputs = {graph: [_typed(v) for v in program.graphs[graph].graph.output] for graph in leaving}
    return inputs, outputs


def _typed(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return f"{value.name}: {tensor.elem_type}"
    shape = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    return f"{value.name}: {tensor.elem_type}{shape}"
