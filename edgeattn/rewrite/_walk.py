"""One walk over the rules: apply, judge, keep or undo, and write down which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Reference
from edgeattn.rewrite import _apply, _check
from edgeattn.rewrite._live import Lives
from edgeattn.rewrite._rule import Choice, Exactness, Outcome, ProgramRule, Rule

if TYPE_CHECKING:
    from edgeattn.program import Arrays, Program


class Walk:
    """The program so far and what became of every rule.

    The source is run once and only when a rule has fired. After a rule that restores what the exporter lost, the
    restored program takes the source's place: its numbers were judged by PyTorch's own.
    """

    def __init__(
        self,
        source: Program,
        opener: _check.Opener,
        progress: Callable[[str], None],
        chooser: Callable[[Program, Program], Choice] | None = None,
        asked: Sequence[str] = (),
    ) -> None:
        self.program = source
        self.records: list[dict[str, Any]] = []
        self._source, self._opener, self._progress = source, opener, progress
        self._chooser, self._asked = chooser, asked
        self._expected: list[Arrays] | None = None
        self._lives = Lives()

    def step(self, rule: Rule) -> None:
        """Apply one rule; its result becomes the program, or a reason in the records."""
        before = _check.node_count(self.program)
        if rule.reshapes and not rule.suggests and rule.name not in self._asked:
            self._record(rule, 0, before, before, 0.0)
            return
        try:
            outcome = _apply.apply(rule, self.program, self._lives)
        except Exception as error:  # a rule must not take the run down: the graph without it is still right
            self._lives.forget()
            self._record(rule, 0, before, before, 0.0, undone=f"raised {type(error).__name__}: {error}")
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

    def _keep_or_undo(self, rule: Rule, outcome: Outcome, before: int) -> None:
        kept = self._expected
        verdict = self._judge(rule, outcome)
        if verdict.reason:
            self._expected = kept
            self._record(rule, outcome.count, before, before, verdict.max_abs, undone=verdict.reason)
            return
        old = outcome.before or self.program
        choice = self._chooser(old, outcome.program) if rule.measured and self._chooser else None
        told: dict[str, Any] = {"measured": asdict(choice), "note": str(choice)} if choice else {}
        if choice is not None and not choice.keep:
            self._expected = kept
            self._record(rule, 0, before, before, 0.0, **told)
            return
        if outcome.note:
            told["note"] = "; ".join(filter(None, (told.get("note"), outcome.note)))
        self.program = outcome.program
        if rule.reshapes:
            self._reanswer()
        self._record(rule, outcome.count, before, _check.node_count(self.program), verdict.max_abs, **told)

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
        # Every rule is held to the stage's limits; a rule may only say that it mends NaN.
        limits = Exactness("allclose", 1e-5, 1e-4, mends_nan=rule.exactness.mends_nan)
        verdict = _check.judge(expected, actual, [c.name for c in cases], limits)
        if not verdict.reason and rule.restores:
            self._expected = list(actual)
        elif not verdict.reason and rule.exactness.mends_nan:
            self._expected = [_mended(e, a) for e, a in zip(expected, actual, strict=True)]
        return verdict

    def _source_outputs(self) -> list[Arrays]:
        if self._expected is None:
            self._expected = list(_check.outputs_of(self._source, self._opener))
        return self._expected

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

    def _has_oracle(self) -> bool:
        reference = self.program.reference
        return reference is not None and reference.origin == "pytorch eager" and all(c.outputs for c in reference.cases)

    def _record(self, rule: Rule, count: int, before: int, after: int, max_abs: float, **why: Any) -> None:
        self.records.append(
            {
                "rule": rule.name,
                "count": count,
                "nodes_before": before,
                "nodes_after": after,
                "max_abs": max_abs,
                "exactness": rule.exactness.kind,
                **why,
            }
        )
        told = f"; undone: {why['undone']}" if "undone" in why else f"; {why['note']}" if "note" in why else ""
        self._progress(f"{rule.name}: {count} rewritten, {before} -> {after} nodes{told}")


def _mended(expected: Arrays, actual: Arrays) -> Arrays:
    """``expected`` with its NaN replaced by what the accepted rule defines there."""
    return {
        name: np.where(np.isnan(array), actual[name], array) if array.dtype.kind == "f" else array
        for name, array in expected.items()
    }
