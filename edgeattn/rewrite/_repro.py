"""The smallest graph on which an undone rule still fails, left on disk for a bug report.

Places where the rule matches are tried one by one, the likeliest first: those whose values differ between the graph
before and after. Around each, a region is cut out of the graph with the numbers that flowed into it, and grown until
the rule, applied to the region alone, fails there as well. Where no region does, and for rules that need a whole
program, the program itself is what is left. A region that does not show the failure is never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeattn import decode, outside
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite import _apply, _check, _cut
from edgeattn.rewrite._live import Live
from edgeattn.rewrite._rule import GraphRule, Match, Rule

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays, Opener, Session

RADII = (0, 1, 2, 4, 8)  # steps around a match
MOST_PLACES = 40
LARGEST = 256 << 20  # a program above this many bytes is named, not copied

README = """# {rule} was undone

{reason}

`before.onnx` is {what}; `after.onnx` is what the rule made of it, if it made anything; `inputs.npz` holds the
numbers it was judged on. To see it again:

    edgeattn rewrite before.onnx -o again.onnx --only {rule}

To compare both graphs in ONNX Runtime, nothing optimised:

```python
import numpy, onnxruntime

options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
feeds = dict(numpy.load("inputs.npz"))
before, after = (
    onnxruntime.InferenceSession(f"{{name}}.onnx", options, providers=["CPUExecutionProvider"]).run(None, feeds)
    for name in ("before", "after")
)
print(max(abs(a.astype(float) - b.astype(float)).max() for a, b in zip(before, after)))
```
"""

WHOLE = """# {rule} was undone

{reason}

`before/` is the program, `after/` what the rule made of it, if it made anything; `inputs.npz` holds the inputs of the
case it was judged on, with `tokens` where they were forced. To see it again:

    edgeattn rewrite before -o again --only {rule}
"""


@dataclass(frozen=True)
class Shown:
    """A program on which the rule fails: as it was, as the rule left it (if it did), and why that will not do."""

    before: Program
    after: Program | None
    reason: str


def leave(folder: Path, rule: Rule, program: Program, why: str, opener: Opener) -> Path | None:
    """Write the smallest failing piece of ``program`` to ``folder / rule.name``.

    Args:
        folder: made where it is missing.
        rule: what failed. program: what it was applied to, with the cases it was judged by.
        why: what the walk said. opener: runs programs.

    Returns:
        The directory, or None where the failure does not show again or the program is too large to copy.
    """
    found = next(_regions(rule, program, why, opener), None) if isinstance(rule, GraphRule) else None
    if rule.reshapes:  # before and after are not alike from outside: the walk alone can judge them
        found = Shown(_judged_by_one(program, why), None, why)
    elif found is None and sum(map(outside.size, program.graphs.values())) <= LARGEST:
        whole = shows(rule, _judged_by_one(program, why), opener)
        found = whole if whole is not None and _alike(whole.reason, why) else None
    if found is None:
        return None
    out = folder / rule.name
    out.mkdir(parents=True, exist_ok=True)
    _write(out, rule, found)
    return out


def shows(rule: Rule, program: Program, opener: Opener) -> Shown | None:
    """What goes wrong when the rule is applied to a program with a single case; None if all is well."""
    assert program.reference is not None
    try:
        outcome = _apply.apply(rule, program)
    except Exception as error:  # whatever the rule raises is what is to be shown
        return Shown(program, None, f"raised {type(error).__name__}: {error}")
    if not outcome.count:
        return None
    after = outcome.program
    reason = _check.broken(after) or _check.not_as_before(program, after)
    if not reason:
        (case,) = program.reference.cases
        try:
            want: list[Arrays] = [case.outputs] if rule.restores else [*_check.outputs_of(program, opener)]
            reason = _check.judge(want, _check.outputs_of(after, opener), [case.name], _check.limits_of(rule)).reason
        except Exception as error:  # the engine refused one of them: that is what goes wrong
            reason = str(error) or type(error).__name__
    return Shown(program, after, reason) if reason else None


def _regions(rule: GraphRule, program: Program, why: str, opener: Opener) -> Iterator[Shown]:
    """Regions on which the rule fails, the smallest around each place first."""
    for name, model in program.graphs.items():
        places = list(_places(rule, Live(name, model)))
        if not places:
            continue
        feeds = _feeds_of(name, program, _failing(program, why), opener)
        if feeds is None:
            continue
        for place in _likeliest_first(places, rule, program, name, feeds, opener)[:MOST_PLACES]:
            for radius in RADII:
                region = _region(_cut.Graph(model), place, radius, feeds, opener)
                shown = shows(rule, region, opener) if region is not None else None
                if shown is not None and _alike(shown.reason, why):
                    yield shown
                    break


def _alike(reason: str, why: str) -> bool:
    """Whether a region fails as the program did: with the same exception, or by its result."""
    return reason == why if why.startswith("raised ") else not reason.startswith("raised ")


def _places(rule: GraphRule, live: Live) -> Iterator[tuple[str, ...]]:
    """First outputs of the nodes of every match; of the node alone where matching raises."""
    view = live.view
    for node in live.anchors(rule.anchors):
        try:
            answer = rule.match(node, view)
        except Exception:  # this is a place where the rule fails
            yield (node.outputs[0].name or "",)
            continue
        if isinstance(answer, Match):
            yield tuple(n.outputs[0].name or "" for n in (answer.anchor, *answer.nodes) if n.graph is node.graph)


def _likeliest_first(
    places: list[tuple[str, ...]], rule: Rule, program: Program, name: str, feeds: Arrays, opener: Opener
) -> list[tuple[str, ...]]:
    """Places whose last value differs after the rule, in graph order, before those whose does not."""
    try:
        after = _apply.apply(rule, program).program.graphs[name]
        taps = [place[0] for place in places]
        both = [_tapped(model, taps, feeds, opener) for model in (program.graphs[name], after)]
    except Exception:  # nothing to compare: every place is as likely
        return places
    differs = {
        tap for tap in taps if tap in both[0] and tap in both[1] and _check.compare(both[0][tap], both[1][tap])[0]
    }
    return sorted(places, key=lambda place: place[0] not in differs)


def _region(graph: _cut.Graph, place: tuple[str, ...], radius: int, feeds: Arrays, opener: Opener) -> Program | None:
    """A program of the nodes around a place, judged by the numbers that flow into them; None if it cannot be cut."""
    nodes = graph.around(place, radius)
    inputs, outputs = graph.boundary(nodes)
    if not nodes or not outputs:
        return None
    try:
        known = _tapped(graph.model, [*inputs, *outputs], feeds, opener)
        model = graph.extract(nodes, inputs, outputs, known)
    except (KeyError, ValueError):
        return None
    case = Case("captured", {name: known[name] for name in inputs}, None, {name: known[name] for name in outputs})
    return Program({"main": _apply.infer_shapes(model)}, None, Reference("source graph", (case,)))


def _tapped(model: onnx.ModelProto, names: Iterable[str], feeds: Arrays, opener: Opener) -> dict[str, Array]:
    """The values of these names when the graph runs on ``feeds``; what it does not hold is left out."""
    tapped = _cut.with_taps(model, names)
    (session,) = opener(Program({"main": tapped})).values()
    found: dict[str, Array] = {name: np.asarray(array) for name, array in feeds.items()}
    return found | session.run({spec.name: feeds[spec.name] for spec in session.inputs})


def _feeds_of(name: str, program: Program, case: Case, opener: Opener) -> Arrays | None:
    """What a graph of the program is fed when a case runs: the first time, for one that runs every step."""
    if program.wiring is None:
        return case.feeds
    seen: list[Arrays] = []
    sessions: dict[str, Session] = dict(opener(program))
    sessions[name] = _Listening(sessions[name], seen)
    decode.run(sessions, program.wiring, case.feeds, case.tokens)
    return seen[0] if seen else None


class _Listening:
    """A session that notes what it is fed."""

    def __init__(self, session: Session, seen: list[Arrays]) -> None:
        self.inputs, self.outputs, self._session, self._seen = session.inputs, session.outputs, session, seen

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        self._seen.append(dict(feeds))
        return self._session.run(feeds)


def _judged_by_one(program: Program, why: str) -> Program:
    assert program.reference is not None
    return replace(program, reference=Reference(program.reference.origin, (_failing(program, why),)))


def _failing(program: Program, why: str) -> Case:
    """The case that a reason names; the first where it names none."""
    assert program.reference is not None
    cases = program.reference.cases
    return next((case for case in cases if f"case '{case.name}'" in why), cases[0])


def _write(out: Path, rule: Rule, found: Shown) -> None:
    assert found.before.reference is not None
    (case,) = found.before.reference.cases
    arrays = {**case.feeds, **({} if case.tokens is None else {"tokens": case.tokens})}
    np.savez(out / "inputs.npz", **arrays)  # type: ignore[arg-type]  # names never collide with savez's own `file`
    for name, program in (("before", found.before), ("after", found.after)):
        if program is None:
            continue
        if program.wiring is None:
            outside.write_program(program, out / f"{name}.onnx")
        else:
            (out / name).mkdir(exist_ok=True)
            outside.write_program(program, out / name)
    nodes = sum(len(model.graph.node) for model in found.before.graphs.values())
    text = README if found.before.wiring is None else WHOLE
    what = f"a graph of {nodes} nodes on which it fails"
    (out / "README.md").write_text(text.format(rule=rule.name, reason=found.reason, what=what), encoding="utf-8")
