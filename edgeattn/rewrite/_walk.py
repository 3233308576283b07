"""One walk over the rules: apply, judge, keep or undo, and write down which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Reference
from edgeattn.rewrite import _apply, _check, _conditioning, _repro, _story
from edgeattn.rewrite._live import Lives
from edgeattn.rewrite._rule import Choice, GraphRule, Outcome, ProgramRule, Rule

if TYPE_CHECKING:
    from edgeattn.program import Arrays, Opener, Program


ROUNDS = 4  # a program that still changes then is left as it is: every state of it was judged


class Walk:
    """The program so far, what became of every rule, and the nodes that each changed.

    The source is run once and only when a rule has fired. After a rule that restores what the exporter lost, the
    restored program takes the source's place: its numbers were judged by PyTorch's own.
    """

    def __init__(
        self,
        source: Program,
        opener: Opener,
        progress: Callable[[str], None],
        chooser: Callable[[Program, Program], Choice] | None = None,
        asked: Sequence[str] = (),
        repro: Path | None = None,
    ) -> None:
        self.program = source
        self.records: list[dict[str, Any]] = []
        self._source, self._opener, self._progress = source, opener, progress
        self._chooser, self._asked, self._repro = chooser, asked, repro
        self._expected: list[Arrays] | None = None
        self.changes: list[tuple[str, _story.Changed]] = []
        self._spreads: dict[int, Mapping[str, float]] = {}
        self._lives = Lives()
        self._counted: tuple[Program, int] | None = None
        self._by_rule: dict[str, dict[str, Any]] = {}

    def over(self, rules: Sequence[Rule]) -> None:
        """Apply the rules in order, and again where later ones opened the way for earlier ones, until a round is quiet.

        So a second run of the stage finds nothing. A rule that was undone or left alone is not asked again.
        """
        for number in range(ROUNDS):
            before = self.program
            for rule in rules:
                if number == 0 or not self._settled(rule):
                    self.step(rule)
            if self.program is before:
                return

    def _settled(self, rule: Rule) -> bool:
        """Whether a rule was undone or left alone, or turns one form into another, which is done once."""
        record = self._by_rule[rule.name]
        return rule.reshapes or "undone" in record or (not record["count"] and "note" in record)

    def step(self, rule: Rule) -> None:
        """Apply one rule; its result becomes the program, or a reason in the records."""
        before = self._nodes()
        if rule.reshapes and not rule.suggests and rule.name not in self._asked:
            self._record(rule, 0, before, before, 0.0)
            return
        if rule.measured and self._chooser is None and rule.name not in self._asked and isinstance(rule, GraphRule):
            self._leave_alone(rule, before)
            return
        try:
            outcome = _apply.apply(rule, self.program, self._lives)
        except Exception as error:  # a rule must not take the run down: the graph without it is still right
            self._lives.forget()
            self._undo(rule, 0, before, 0.0, f"raised {type(error).__name__}: {error}")
            return
        if outcome.count == 0:
            asked = rule.reshapes and rule.name in self._asked
            why = {"note": f"does not fit: {outcome.misses[0].reason}"} if asked and outcome.misses else {}
            self._record(rule, 0, before, before, 0.0, **why)
        elif rule.restores and not self._has_oracle():
            note = "found, but left alone: there are no PyTorch outputs to judge a restored graph by"
            self._record(rule, 0, before, before, 0.0, note=note)
        elif rule.reshapes and rule.name not in self._asked:
            note = f"fits, but left alone: it changes how the program is used; ask for it with --also {rule.name}"
            self._record(rule, 0, before, before, 0.0, note=note)
        elif rule.measured and self._chooser is None and rule.name not in self._asked:
            note = f"fits {outcome.count} times, but left alone: whether it helps is measured on a target"
            self._record(rule, 0, before, before, 0.0, note=note)
        else:
            self._keep_or_undo(rule, outcome, before)

    def _leave_alone(self, rule: GraphRule, nodes: int) -> None:
        """Say how often a rule would fit; the graph is only looked at."""
        try:
            fits = _apply.count_matches(rule, self.program, self._lives)
        except Exception as error:  # as in step: the rule alone is at fault
            self._undo(rule, 0, nodes, 0.0, f"raised {type(error).__name__}: {error}")
            return
        note = f"fits {fits} times, but left alone: whether it helps is measured on a target"
        self._record(rule, 0, nodes, nodes, 0.0, **({"note": note} if fits else {}))

    def _nodes(self) -> int:
        """Nodes of the program, counted once for all the rules that find nothing in it."""
        if self._counted is None or self._counted[0] is not self.program:
            self._counted = (self.program, _check.node_count(self.program))
        return self._counted[1]

    def _keep_or_undo(self, rule: Rule, outcome: Outcome, before: int) -> None:
        kept = self._expected
        verdict = self._judge(rule, outcome)
        if verdict.reason:
            self._expected = kept
            self._undo(rule, outcome.count, before, verdict.max_abs, verdict.reason)
            return
        old = outcome.before or self.program
        choice = self._chooser(old, outcome.program) if rule.measured and self._chooser else None
        told: dict[str, Any] = {"measured": asdict(choice), "note": str(choice)} if choice else {}
        if choice is not None and not choice.keep:
            self._expected = kept
            self._record(rule, 0, before, before, 0.0, **told)
            return
        self.changes.append((rule.name, _story.changed(self.program, outcome.program)))
        told["where"] = _story.places(self.changes[-1][1])
        if outcome.note or verdict.note:
            told["note"] = "; ".join(filter(None, (told.get("note"), outcome.note, verdict.note)))
        self.program = outcome.program
        if rule.reshapes:
            self._reanswer()
        self._record(rule, outcome.count, before, _check.node_count(self.program), verdict.max_abs, **told)

    def _undo(self, rule: Rule, count: int, nodes: int, max_abs: float, reason: str) -> None:
        """The program stays as it was; the reason is recorded, and where it can be seen again."""
        left = None
        if self._repro is not None:
            try:
                left = _repro.leave(self._repro, rule, self.program, reason, self._opener)
            except Exception as error:  # a proof that cannot be made takes nothing down with it
                self._progress(f"{rule.name}: no example could be cut out ({type(error).__name__}: {error})")
        self._record(rule, count, nodes, nodes, max_abs, undone=reason, **({"repro": left.name} if left else {}))

    def _judge(self, rule: Rule, outcome: Outcome) -> _check.Verdict:
        candidate = outcome.program
        compare = _check.not_reshaped if rule.reshapes else _check.not_as_before
        reason = _check.broken(candidate) or compare(self.program, candidate)
        if not reason and not isinstance(rule, ProgramRule) and candidate.wiring != self.program.wiring:
            reason = "a graph rule changed the wiring"
        if reason:
            return _check.Verdict(reason, 0.0)
        assert candidate.reference is not None
        cases = candidate.reference.cases
        if outcome.before is None:  # a case that the source itself cannot run is no fault of the rule
            self._source_outputs()
        try:
            if rule.reshapes:
                self._retell(outcome)
            expected = [c.outputs for c in cases] if rule.restores else self._source_outputs()
            actual = _check.outputs_of(candidate, self._opener)
        except Exception as error:  # the engine refused what the rule built: whatever it raised is the reason
            return _check.Verdict(str(error) or type(error).__name__, 0.0)
        spread = self._spread if not (rule.restores or rule.reshapes) else lambda case: {}
        verdict = _check.judge(expected, actual, [c.name for c in cases], _check.limits_of(rule), spread)
        if not verdict.reason and rule.restores:
            self._expected = list(actual)
        elif not verdict.reason and rule.exactness.mends_nan:
            self._expected = [_mended(e, a) for e, a in zip(expected, actual, strict=True)]
        return verdict

    def _source_outputs(self) -> list[Arrays]:
        if self._expected is None:
            self._expected = list(_check.outputs_of(self._source, self._opener))
        return self._expected

    def _spread(self, number: int) -> Mapping[str, float]:
        """How far the source is from itself on a case."""
        if number not in self._spreads:
            assert self._source.reference is not None
            case = self._source.reference.cases[number]
            self._spreads[number] = _conditioning.spread(self._source, self._opener, case)
        return self._spreads[number]

    def _retell(self, outcome: Outcome) -> None:
        """What the old form gives for the cases that both forms take, as the new form gives it."""
        given = _check.outputs_of(outcome.before, self._opener) if outcome.before else self._source_outputs()
        self._expected = [dict(outcome.retold(g)) if outcome.retold else g for g in given]

    def _reanswer(self) -> None:
        """The reference of a program in a new form: its cases, with the old form's answers."""
        assert self.program.reference is not None
        pairs = zip(self.program.reference.cases, self._source_outputs(), strict=True)
        cases = tuple(replace(c, outputs=answer, golden={}, rounded={}) for c, answer in pairs)
        self.program = replace(self.program, reference=Reference("source graph", cases))
        self._source, self._spreads = self.program, {}  # from now on rules are judged on these cases

    def _has_oracle(self) -> bool:
        reference = self.program.reference
        return reference is not None and reference.origin == "pytorch eager" and all(c.outputs for c in reference.cases)

    def _record(self, rule: Rule, count: int, before: int, after: int, max_abs: float, **why: Any) -> None:
        new = {"rule": rule.name, "count": count, "nodes_before": before, "nodes_after": after, "max_abs": max_abs}
        new |= {"exactness": rule.exactness.kind, **why}
        known = self._by_rule.get(rule.name)
        if known is None:
            self._by_rule[rule.name] = new
            self.records.append(new)
        elif count or why:
            self._amend(known, new)
        else:
            return
        seen = f" (see {why['repro']}/)" if "repro" in why else ""
        told = f"; undone: {why['undone']}{seen}" if "undone" in why else f"; {why['note']}" if "note" in why else ""
        self._progress(f"{rule.name}: {count} rewritten, {before} -> {after} nodes{told}")

    def _amend(self, known: dict[str, Any], new: dict[str, Any]) -> None:
        """A later round's record goes into the first one's, as though the rule had done it all then."""
        added = new["nodes_after"] - new["nodes_before"]
        places = list(dict.fromkeys([*known.get("where", ()), *new.get("where", ())]))
        for record in self.records[self.records.index(known) + 1 :]:
            record["nodes_before"] += added
            record["nodes_after"] += added
        sums = {"count": known["count"] + new["count"], "max_abs": max(known["max_abs"], new["max_abs"])}
        nodes = {"nodes_before": known["nodes_before"], "nodes_after": known["nodes_after"] + added}
        known |= {**new, **sums, **nodes, **({"where": places} if places else {})}


def _mended(expected: Arrays, actual: Arrays) -> Arrays:
    """``expected`` with its NaN replaced by what the accepted rule defines there."""
    return {
        name: np.where(np.isnan(array), actual[name], array) if _is_float(array) else array
        for name, array in expected.items()
    }


def _is_float(output: Any) -> bool:
    """Whether an output is a float tensor; it may be a sequence."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"
