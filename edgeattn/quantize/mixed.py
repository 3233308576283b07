"""mixed: INT8 within a budget; the layers that cost most stay in float.

What: the plan of ``int8-static``, less the layers whose INT8 costs more than ``--max-drop`` (share of the task's
metric) or ``--sqnr`` (dB, of every output) allow. Without a budget: the 30 dB of the INT8 gate.
Why: often a few layers bring most of the noise; to keep those in float saves the model, to keep them all out of INT8
wastes it.
How: calibrate once; measure each group of layers (what shares a quantizer, a weight or an attention block) alone in
INT8; of the sets that spare the most noise for their multiply-accumulates, bisect for the one that does; give back
what the budget can spare. All is measured in the target engine, on calibration data held out (a task's metric: on
training data that did not calibrate, never on its test split). Each trial is written down, so a search that
``--minutes`` or Ctrl-C stopped goes on where it was.
Stays float: what ``int8-static`` leaves in float, and the layers found, each with what giving it back would cost.
Source: the ranking by one quantized layer at a time follows Wu et al. 2020 (arXiv:2004.09602), partial quantization.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeattn.errors import UsageError
from edgeattn.program import Case, Opener, Program
from edgeattn.quantize import Budget, Judge, Quantized, Scheme, Settings
from edgeattn.quantize._plan import Plan
from edgeattn.quantize._search import Search, asked, work
from edgeattn.quantize._trials import Calibrated, Floats, Trials

if TYPE_CHECKING:
    from edgeattn.quantize._groups import Group
    from edgeattn.quantize._search import Verdict

DEFAULT_SQNR_DB = 30.0  # what the INT8 gate passes without a warning
_TOLD = 20  # groups of the ranking in the notes


class Mixed(Scheme):
    """The scheme; see the module docstring."""

    name = "mixed"
    precision = "int8"
    limits = "int8"
    calibrated = True
    timed_as = "int8-static"

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """As :meth:`search`, judged where it calibrates."""
        return self.search(program, opener, data, settings, Judge("the engine that calibrates", opener))

    def search(
        self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings, judge: Judge
    ) -> Quantized:
        """Find the least work in float that keeps the budget; see :class:`edgeattn.quantize.Searching`."""
        budget = _budget(settings.budget, judge)
        calibrated = Calibrated.of(program, opener, data, settings)
        trials = Trials(calibrated, judge)
        search = Search(trials, budget, judge.target, judge.listen)
        floats = search.run()
        result, plans = calibrated.candidate({group: _why(group, search) for group in floats})
        notes = {
            "samples": calibrated.samples,
            "calibration": calibrated.notes,
            "activations": sum(len(p.activations) for p in plans.values()),
            "weights": sum(len(p.weights) for p in plans.values()),
            "kept_float": _kept(plans, floats, search),
            "attention": [f"{a.kind}: {a.describe()}" for p in plans.values() for a in p.attention],
            "search": _story(calibrated, search, floats, judge),
        }
        return result, notes


def _budget(asked_for: Budget, judge: Judge) -> Budget:
    """The budget with its default.

    Raises:
        UsageError: a metric's drop without a task that has one, or a limit that is not one.
    """
    if asked_for.max_drop is not None and judge.drop is None:
        hint = "give a task with a metric, or an SQNR in dB (sqnr) instead"
        raise UsageError("max_drop is a share of a task's metric, and there is none", where="budget", hint=hint)
    for name, value in (("sqnr", asked_for.sqnr), ("minutes", asked_for.minutes)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} is {value:g}", where="budget", hint="give a positive number")
    if asked_for.max_drop is not None and not 0 <= asked_for.max_drop <= 1:
        raise UsageError(f"max_drop is {asked_for.max_drop:g}", where="budget", hint="give a share, like 0.01")
    none = asked_for.max_drop is None and asked_for.sqnr is None
    return replace(asked_for, sqnr=DEFAULT_SQNR_DB) if none else asked_for


def _why(group: Group, search: Search) -> str:
    """What a group that stays in float would cost, in words."""
    share = f"{100 * group.share:.2g} % of the MACs"
    if group not in search.costs:
        return f"{_alone_db(group, search):.1f} dB with it alone in INT8, {share}"
    decibels, lost = search.costs[group]
    drop = "" if lost is None else f" and {100 * lost:.2g} % of the metric"
    return f"costs {decibels:.1f} dB{drop}, {share}"


def _kept(plans: Mapping[str, Plan], floats: Floats, search: Search) -> dict[str, str]:
    """Every layer in float with the reason, the ones found by the names a user knows."""
    found = {layer.name: _why(group, search) for group in search.order if group in floats for layer in group.layers}
    reasons = set(found.values())
    return {name: why for p in plans.values() for name, why in p.kept.items() if why not in reasons} | found


def _story(calibrated: Calibrated, search: Search, floats: Floats, judge: Judge) -> dict[str, Any]:
    """The search in figures."""
    trials, nothing = search.trials, frozenset[Any]()
    in_int8 = sum(group.share for group in trials.groups)
    return {
        "asked": asked(search.budget),
        "target": judge.target,
        "held_out": calibrated.held.samples if calibrated.held.apart else 0,
        "task": judge.task if search.budget.max_drop is not None else "",
        "before": _figures(search.verdict(nothing), in_int8),
        "reached": _figures(search.verdict(floats), in_int8 - work(floats)),
        "groups": len(trials.groups),
        "groups_in_float": len(floats),
        "trials": trials.opened,
        "recalled": trials.journal.known,
        "cut": search.cut,
        "not_resumable": trials.journal.fault,
        "ranking": [_row(group, search, floats) for group in search.order[:_TOLD]],
    }


def _figures(verdict: Verdict, int8_macs: float) -> dict[str, Any]:
    drop = verdict.drop
    lost = {} if drop is None else {"drop": drop.share, "ci95": list(drop.ci95), "metric": drop.metric}
    size = {} if drop is None else {"samples": drop.samples}
    return {"sqnr_db": verdict.signal.sqnr_db, "output": verdict.signal.output, "int8_macs": int8_macs, **lost, **size}


def _row(group: Group, search: Search, floats: Floats) -> dict[str, Any]:
    cost = search.costs.get(group)
    return {
        "layers": group.name,
        "graph": group.layers[0].graph,
        "macs": group.share,
        "alone_sqnr_db": _alone_db(group, search),
        "cost_db": None if cost is None else cost[0],
        "float": group in floats,
    }


def _alone_db(group: Group, search: Search) -> float:
    return search.trials.signal(search.trials.alone(group)).sqnr_db


SCHEME = Mixed()
