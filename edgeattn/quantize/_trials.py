"""Candidates of a search: some layers in float, the others in INT8, and what the outputs keep.

Calibration has happened once: only insertion differs between trials. A trial's result is written down
(:class:`edgeattn.quantize._journal.Journal`), and one that is known already opens no session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import edgeattn
from edgeattn.quantize import Drop, Judge, Settings
from edgeattn.quantize._groups import Group, groups
from edgeattn.quantize._held import Held, Signal
from edgeattn.quantize._insert import insert, levels, refuse_nonfinite
from edgeattn.quantize._journal import Journal
from edgeattn.quantize._observe import calibrate
from edgeattn.quantize._plan import Plan, drop_unreached, plan

if TYPE_CHECKING:
    from edgeattn.program import Case, Opener, Program

Floats = frozenset[Group]
"""The groups of a candidate that stay in float."""


@dataclass(frozen=True)
class Calibrated:
    """A float program with all that its candidates are made of.

    Attributes:
        plans: graph -> what becomes INT8 where nothing is spared.
        peaks: graph -> value -> max \\|x\\|. samples: how many they were taken from.
        held: what candidates are judged on. notes: how calibration went.
    """

    program: Program
    settings: Settings
    plans: Mapping[str, Plan]
    peaks: Mapping[str, Mapping[str, float]]
    samples: int
    held: Held
    notes: Mapping[str, Any]

    @classmethod
    def of(cls, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Calibrated:
        """Plan every graph as ``int8-static`` does, calibrate once, and let the float program answer what is held out.

        Raises:
            BadInput: no sample, a non-finite activation or weight. UsageError: no floating-point output.
        """
        plans = {graph: plan(model, settings) for graph, model in program.graphs.items()}
        for graph, model in program.graphs.items():
            refuse_nonfinite(model, plans[graph])
        held = Held()
        found = calibrate(program, _values(program, plans, settings), opener, held.split(data), settings.ranges)
        held.answer(program, opener(program))
        return cls(program, settings, plans, found.peaks, found.samples, held, found.notes)

    def candidate(self, why: Mapping[Group, str]) -> tuple[Program, dict[str, Plan]]:
        """The program with these groups in float, for these reasons, and its plans."""
        floats: dict[str, dict[str, str]] = {graph: {} for graph in self.program.graphs}
        for group, reason in why.items():
            for layer in group.layers:
                floats[layer.graph][layer.output] = reason
        models = self.program.graphs
        plans = {graph: plan(model, self.settings, floats[graph]) for graph, model in models.items()}
        for graph, found in self.peaks.items():
            drop_unreached(plans[graph], found)
        made = {graph: insert(model, plans[graph], self.peaks[graph]) for graph, model in models.items()}
        return replace(self.program, graphs=made), plans

    def facts(self, target: str) -> dict[str, Any]:
        """All that a trial's result follows from."""
        data = hashlib.sha256()
        for case in self.held.cases:
            for name, value in (*case.feeds.items(), *case.outputs.items()):
                data.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
        dialect, fixed = asdict(self.settings.qdq), (self.settings.gate, self.settings.keep, self.settings.ranges)
        return {
            "edgeattn": edgeattn.__version__,
            "float": self.program.digest(),
            "int8": self.candidate({})[0].digest(),  # says the ranges, and how this edgeattn writes a plan down
            "held": data.hexdigest(),
            "qdq": dialect,
            "settings": fixed,
            "target": target,
        }


def _values(program: Program, plans: Mapping[str, Plan], settings: Settings) -> dict[str, dict[str, int]]:
    """Graph -> every value that a candidate may quantize -> its levels: with all layers in INT8, or one group alone.

    What is fused with a layer in INT8 may be a value of its own where that layer is in float.
    """
    found = {graph: levels(made) for graph, made in plans.items()}
    every = groups(program, plans)
    for group in every:
        graph = group.layers[0].graph
        rest = (layer for other in every if other is not group for layer in other.layers)
        others = {layer.output: "tried" for layer in rest if layer.graph == graph}
        found[graph] |= levels(plan(program.graphs[graph], settings, others))
    return found


class Trials:
    """Measures candidates, each once.

    Attributes:
        groups: every group, in graph order. journal: what was found. opened: trials that were measured in this run.
    """

    def __init__(self, calibrated: Calibrated, judge: Judge) -> None:
        self._calibrated, self._judge = calibrated, judge
        self.groups = groups(calibrated.program, calibrated.plans)
        self.journal = Journal(calibrated.facts(judge.target))
        self.opened = 0

    def alone(self, group: Group) -> Floats:
        """The candidate with one group in INT8 and all else in float."""
        return frozenset(self.groups) - {group}

    def signal(self, floats: Floats) -> Signal:
        """What the outputs keep with these groups in float, in the target."""
        found = self.journal.recall(f"signal {_key(floats)}", lambda: self._signal(floats))
        return Signal(**found)

    def drop(self, floats: Floats) -> Drop:
        """What the task loses with these groups in float, in the target."""
        assert self._judge.drop is not None
        measure = self._judge.drop
        found = self.journal.recall(f"{self._judge.task} {_key(floats)}", lambda: asdict(measure(self._made(floats))))
        return Drop(**found)

    def knows(self, floats: Floats) -> bool:
        """Whether the signal of a candidate was measured already."""
        return f"signal {_key(floats)}" in self.journal

    def knows_drop(self, floats: Floats) -> bool:
        """Whether the drop of a candidate was measured already."""
        return f"{self._judge.task} {_key(floats)}" in self.journal

    def _signal(self, floats: Floats) -> dict[str, Any]:
        made = self._made(floats)
        return asdict(self._calibrated.held.signal(made.wiring, self._judge.opener(made)))

    def _made(self, floats: Floats) -> Program:
        self.opened += 1
        return self._calibrated.candidate(dict.fromkeys(floats, "tried"))[0]


def _key(floats: Collection[Group]) -> str:
    """A short name of a candidate: how many groups are in float, and which."""
    keys = "\n".join(sorted(group.key for group in floats))
    return f"{len(floats)} {hashlib.sha256(keys.encode()).hexdigest()[:16]}"
