"""Where candidates of a search are judged: in the target engine, and on training data that did not calibrate.

A task's test split is what the report scores. A search that looked at it would choose what suits it; so the metric is
measured on training samples behind those that calibrated. A model knows its training data: what it loses there is
less than what it may lose on new data, and the report says both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeattn import cases, decode, graphs, registry
from edgeattn.backends import Options, oracle
from edgeattn.errors import Unsupported, UsageError
from edgeattn.harness.task import Scored, compare, scores
from edgeattn.progress import Listener, silent
from edgeattn.quantize import Drop, Judge

if TYPE_CHECKING:
    from edgeattn.backends import Backend
    from edgeattn.program import Opener, Program, Session
    from edgeattn.tasks import Batch, Task

SAMPLES, _LEAST, _BATCH = 500, 50, 50


def judge(
    backend_name: str,
    options: Options,
    program: Program,
    task: Task | None = None,
    calibrated: int = 0,
    listen: Listener = silent,
) -> Judge:
    """A judge that opens candidates in an engine, or in the one that calibrates where that does not run here.

    Args:
        backend_name: registry name.
        options: device and threads; candidates are opened for INT8.
        program: the float program, whose metric is the reference.
        task: whose metric may drop. calibrated: how many of its training samples calibrate.
        listen: progress.
    """
    backend: Backend = registry.get("backends", backend_name)
    here, runs = backend.probe(), backend.executes(options)

    def opener(candidate: Program, precision: str = "int8") -> Mapping[str, Session]:
        if not runs.available:
            return oracle(candidate)
        asked = replace(options, precision=precision)
        for refused in backend.unsupported(candidate, asked):
            raise Unsupported(refused.reason, where=refused.at(backend_name), hint=refused.hint)
        return {graph: backend.load(model, asked) for graph, model in candidate.graphs.items()}

    name = backend_name.replace("_", "-")
    target = f"{name} {here.version}" if runs.available else f"the engine that calibrates ({name} does not run here)"
    if task is None or task.metric.name == "none":
        return Judge(target, opener, listen=listen)
    held = _Held(task, calibrated, lambda p: opener(p, "fp32"), opener, program, listen)
    return Judge(target, opener, held.what, held.drop, listen)


@dataclass
class _Held:
    """A task's training samples that did not calibrate."""

    task: Task
    skip: int
    open_float: Opener
    open_candidate: Opener
    program: Program
    listen: Listener
    _reference: list[Scored] = field(default_factory=list)

    @property
    def what(self) -> str:
        """The data in words."""
        return f"{self.task.name}: up to {SAMPLES} training samples behind the first {self.skip}"

    def drop(self, candidate: Program) -> Drop:
        """How much worse a candidate does than the float program.

        Raises:
            UsageError: the task has too few training samples beside those that calibrate.
        """
        if not self._reference:
            self._reference.append(self._scored("float", self.program, self.open_float))
        found = compare(self.task, self._reference[0], self._scored("it", candidate, self.open_candidate), None)
        low, high = found.ci95
        reference, figure, drop = (float(v or 0.0) for v in (found.reference, found.engine, found.drop))
        share = drop / abs(reference) if reference else float(drop > 0)
        return Drop(share, reference, figure, (float(low or 0.0), float(high or 0.0)), found.metric, found.samples)

    def _scored(self, what: str, program: Program, opener: Opener) -> Scored:
        sessions = opener(program)
        return scores(
            lambda batch: decode.run(sessions, program.wiring, batch.feeds, batch.tokens),
            replace(self.task, test=lambda _samples, batch: self._batches(batch)),
            None,
            cases.samples_at_once(graphs.program_inputs(self.program), _BATCH),
            lambda done, _total: self.listen(f"{self.task.metric.name} of {what} on training data", done, SAMPLES),
        )

    def _batches(self, batch: int) -> Iterator[Batch]:
        """The batches that begin behind the samples that calibrate."""
        seen = given = 0
        for part in self.task.train(self.skip + SAMPLES, batch):
            if seen >= self.skip:
                given += len(part.targets)
                yield part
            seen += len(part.targets)
        if given < _LEAST:
            what = f"only {max(0, seen - self.skip)} training samples are left beside the {self.skip} that calibrate"
            raise UsageError(what, where=f"task {self.task.name}", hint="calibrate on fewer (samples), or give an sqnr")
