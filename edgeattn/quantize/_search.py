"""The search of ``mixed``: the least work in float that keeps a budget.

1. Everything in INT8: where that holds, nothing is ranked.
2. Each group alone in INT8, all else in float, ranked by the noise it brings divided by its multiply-accumulates, in
   the target too: an engine may compute one layer of a kind far worse than another. Noise energies of layers nearly add
   up at the outputs, so the ranking also says where to begin looking.
3. Of all sets of groups, those that spare the most noise for their work (:mod:`edgeattn.quantize._front`), and by
   bisection the one of least work in float with which the budget holds.
4. Giving back: of that, halves, quarters … single groups return to INT8 where the budget still holds, quiet ones
   first. What the last refused return would have cost is the figure beside each layer that stays in float.

Why *alone* and not *all but this one*: only the former add up, so only they say what a set of layers will do. Beside
the noise of all others one layer's is small and often of the wrong sign: 6 of the 15 groups of ``mobilenet_digits``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeattn.errors import BudgetMissed, OutOfResources
from edgeattn.progress import Listener
from edgeattn.quantize import Budget, Drop
from edgeattn.quantize._front import front
from edgeattn.quantize._groups import Group
from edgeattn.quantize._held import Signal

if TYPE_CHECKING:
    from edgeattn.quantize._trials import Floats, Trials


class _TimeIsUp(Exception):
    pass


@dataclass(frozen=True)
class Verdict:
    """What a candidate keeps, held against the budget.

    Attributes:
        drop: None where no drop was asked, or the signal was refused before.
        missing: how far it is past the budget, in parts of it; 0 or less where it holds.
    """

    signal: Signal
    drop: Drop | None
    missing: float

    def __str__(self) -> str:
        lost = "" if self.drop is None else f", {self.drop.share:.2%} of the {self.drop.metric} lost"
        return f"{self.signal.sqnr_db:.1f} dB{lost}"


@dataclass
class Search:
    """One search.

    Attributes:
        fitting: the candidate within the budget that leaves the least work in float, so far.
        order: the groups ranked, the most noise for the least work first; empty before that.
        costs: what it would have cost to give a group back: decibels, share of the metric.
        cut: the time was up before all was tried.
    """

    trials: Trials
    budget: Budget
    target: str
    listen: Listener
    fitting: Floats | None = None
    order: tuple[Group, ...] = ()
    costs: dict[Group, tuple[float, float | None]] = field(default_factory=dict)
    cut: bool = False
    _began: float = field(default_factory=time.monotonic)
    _nearest: tuple[float, Floats] = (math.inf, frozenset())
    _tried: set[Floats] = field(default_factory=set)

    def run(self) -> Floats:
        """The groups to keep in float.

        Raises:
            BudgetMissed: no candidate within the budget was found. OutOfResources: none was before the time was up.
        """
        try:
            self._look()
        except _TimeIsUp:
            self.cut = True
        if self.fitting is not None:
            return self.fitting
        raise self._out_of_time() if self.cut else self._missed()

    def verdict(self, floats: Floats) -> Verdict:
        """A candidate's verdict, measured in the target unless it is known."""
        signal = self._signal(floats)
        missing = -math.inf
        if self.budget.sqnr is not None:
            missing = (self.budget.sqnr - signal.sqnr_db) / self.budget.sqnr
        drop = None
        if self.budget.max_drop is not None and missing <= 0:
            if not self.trials.knows_drop(floats):
                self._check_time()
            drop = self.trials.drop(floats)
            missing = max(missing, (drop.share - self.budget.max_drop) / max(self.budget.max_drop, 1e-3))
        return Verdict(signal, drop, missing)

    def _signal(self, floats: Floats) -> Signal:
        if not self.trials.knows(floats):
            self._check_time()
        return self.trials.signal(floats)

    def _holds(self, floats: Floats) -> bool:
        verdict = self.verdict(floats)
        holds = verdict.missing <= 0
        if floats not in self._tried:
            self._tried.add(floats)
            count = f"mixture {len(self._tried)}, {len(floats)} of {len(self.trials.groups)} groups in float"
            self.listen(f"{count}: {verdict}, {'holds' if holds else 'not enough'}", len(self._tried), None)
        if verdict.missing < self._nearest[0]:
            self._nearest = verdict.missing, floats
        if holds and (self.fitting is None or _size(floats) < _size(self.fitting)):
            self.fitting = floats
        return holds

    def _look(self) -> None:
        if not self.trials.groups or self._holds(frozenset()):
            self.fitting = self.fitting or frozenset()
            return
        self.order = self._rank()
        found = self._bisect()
        if found is not None:
            self._give_back(sorted(found, key=lambda group: (self._noise(group), group.key)))
            return
        quietest = min(self.order, key=self._noise)
        if quietest is not self.order[-1]:
            self._holds(frozenset(self.order) - {quietest})

    def _rank(self) -> tuple[Group, ...]:
        groups = self.trials.groups
        for done, group in enumerate(groups):
            self.listen(f"rank {len(groups)} groups of layers by what INT8 costs", done, len(groups))
            self._signal(self.trials.alone(group))
        return tuple(sorted(groups, key=lambda g: -self._noise(g) / max(g.share, 1e-9)))

    def _noise(self, group: Group) -> float:
        return self.trials.signal(self.trials.alone(group)).noise

    def _bisect(self) -> Floats | None:
        """The mixture of least work, of those that spare the most noise for it, which holds; None where none does."""
        chosen = front([group.share for group in self.order], [self._noise(group) for group in self.order])
        sets = [frozenset(self.order[i] for i in members) for members in chosen]
        mixtures = list(dict.fromkeys([frozenset[Group](), *sets, frozenset(self.order)]))
        low, high, probe = 0, len(mixtures) - 1, self._expected(mixtures)  # nothing in float fails, all is no mixture
        while high - low > 1:
            middle = probe if low < probe < high else (low + high) // 2
            probe = 0
            if self._holds(mixtures[middle]):
                high = middle
            else:
                low = middle
        return mixtures[high] if high < len(mixtures) - 1 else None

    def _expected(self, mixtures: Sequence[Floats]) -> int:
        """The first mixture that should do if noises add up; 0 where no signal was asked."""
        if self.budget.sqnr is None:
            return 0
        now = self._signal(frozenset())
        noise = sum(map(self._noise, self.order))
        allowed = noise * 10 ** ((now.sqnr_db - self.budget.sqnr) / 10)
        fitting = (i for i, spared in enumerate(mixtures) if noise - sum(map(self._noise, spared)) <= allowed)
        return next(fitting, 0)

    def _give_back(self, quiet_first: Sequence[Group]) -> None:
        """Return groups to INT8 where the budget still holds."""
        assert self.fitting is not None
        before, after = self.fitting, self.fitting - frozenset(quiet_first)
        if self._holds(after):
            return
        if len(quiet_first) > 1:
            half = (len(quiet_first) + 1) // 2
            self._give_back(quiet_first[:half])
            self._give_back(quiet_first[half:])
            return
        was, would_be = self.verdict(before), self.verdict(after)
        lost = None if was.drop is None or would_be.drop is None else would_be.drop.share - was.drop.share
        self.costs[quiet_first[0]] = was.signal.sqnr_db - would_be.signal.sqnr_db, lost

    def _check_time(self) -> None:
        limit = self.budget.minutes
        if limit is not None and time.monotonic() - self._began >= 60 * limit:
            raise _TimeIsUp

    def _out_of_time(self) -> OutOfResources:
        groups = self.trials.groups
        ranked = sum(self.trials.knows(self.trials.alone(group)) for group in groups)
        fault = self.trials.journal.fault
        again = f"but {fault}: give it more minutes" if fault else "run the same again to go on from here"
        what = f"{self.budget.minutes:g} minutes are up with {ranked} of {len(groups)} groups of layers ranked"
        return OutOfResources(f"{what}; {self._best()}", where=f"{asked(self.budget)} on {self.target}", hint=again)

    def _missed(self) -> BudgetMissed:
        what = f"no mixture with a layer in INT8 is that good: {self._best()}"
        hint = "allow more, or ship it in float"
        return BudgetMissed(what, where=f"{asked(self.budget)} on {self.target}", hint=hint)

    def _best(self) -> str:
        missing, floats = self._nearest
        if math.isinf(missing):
            return "nothing was tried as a whole"
        share = sum(g.share for g in self.trials.groups) - work(floats)
        return f"the best found has {self.verdict(floats)} with {share:.1%} of the MACs in INT8"


def asked(budget: Budget) -> str:
    """The budget in words."""
    limits = [f"sqnr {budget.sqnr:g} dB"] if budget.sqnr is not None else []
    limits += [f"max_drop {budget.max_drop:g}"] if budget.max_drop is not None else []
    return " and ".join(limits)


def work(floats: Floats) -> float:
    """The share of the multiply-accumulates that these groups are."""
    return sum(group.share for group in floats)


def _size(floats: Floats) -> tuple[float, int]:
    return work(floats), len(floats)
