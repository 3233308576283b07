"""A shelf of finished stages: what several runs have in common is done by the first of them.

A matrix builds one recipe for many engines, each in a process of its own. Export is the same for all; rewriting and
quantizing are, where the options agree. The first run to finish a stage puts its program on the shelf, with what was
judged and noted about it; the next one whose stage has the same *key* takes it from there. The key holds everything a
stage reads: the recipe's sections, what the engine needs of a graph, and where a choice is measured on the engine, the
engine itself. A shelf lies in a private directory that lives as long as the command; nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import outside, storage
from edgeattn.program import Case, Program, Reference, StageRecord
from edgeattn.quantize import Searching, find, forms
from edgeattn.report.schema import StageParity

if TYPE_CHECKING:
    from edgeattn.job import Job
    from edgeattn.program import Arrays

_ABOUT, _ARRAYS, _LEFT = "about.json", "cases.npz", "left"
_GROUPS = ("feeds", "outputs", "golden", "rounded")


class Shelf:
    """Stages that runs share; without a folder every stage is done anew."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._key = ""

    def once(self, job: Job, stage: str, make: Callable[[], Program], leaves: Path | None = None) -> Program:
        """The program after a stage: off the shelf where a run with the same key finished it, else made and put there.

        Args:
            job: the run; what the stage judges and notes is added to it either way.
            stage: ``export``, ``rewrite`` or ``quantize``, asked for in this order.
            make: does the stage.
            leaves: a directory in which the stage may leave something beside the program.
        """
        read = _READS[stage](job)
        if self._folder is None or read is None:
            return make()
        self._key = _digest([self._key, stage, read])
        place = self._folder / f"{stage}-{self._key}"
        if (place / _ABOUT).exists():
            job.listen(f"{stage}, as another part did it", 0, None)
            return _take(place, job, leaves)
        judged, noted = len(job.parity), len(job.notes)
        program = make()
        if not program.ir and not any(outside.tensors(model) for model in program.graphs.values()):
            _put(place, program, job.parity[judged:], job.notes[noted:], leaves)
        return program


def _digest(value: object) -> str:
    """The key of a stage: that of the stage before it, and all that it reads itself."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _exported_from(job: Job) -> dict[str, Any]:
    recipe, wanted = job.recipe, job.recipe.quantize
    borrows = wanted is not None and wanted.calib and job.task is None  # what it is judged on: see job.real_cases
    return {
        "model": (recipe.model, recipe.weights, recipe.task, recipe.seed),
        "export": recipe.export.model_dump(mode="json"),
        "threads": job.threads,
        "borrowed": (wanted.calib, wanted.pixels) if wanted is not None and borrows else None,
    }


def _rewritten_by(job: Job) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "rewrite": recipe.rewrite.model_dump(mode="json"),
        "forms": () if recipe.quantize is None else forms(recipe.quantize.scheme),
        "measured": _engine(job) if job.timed else None,
    }


def _quantized_by(job: Job) -> dict[str, Any] | None:
    """None where the program stays as it is."""
    wanted = job.recipe.quantize
    if wanted is None:
        return None
    measured = wanted.gate == "auto" or isinstance(find(wanted.scheme), Searching)
    return {
        "quantize": wanted.model_dump(mode="json"),
        "dialect": asdict(job.backend.qdq),
        "measured": _engine(job) if measured else None,
    }


_READS: Mapping[str, Callable[[Job], object]] = {
    "export": _exported_from,
    "rewrite": _rewritten_by,
    "quantize": _quantized_by,
}


def _engine(job: Job) -> dict[str, Any]:
    """Where choices are measured: the engine, what it is asked for, and the form that is timed in it."""
    wanted = job.recipe.quantize
    form = None if wanted is None else wanted.model_dump(mode="json")
    return {"backend": job.backend.name, "options": asdict(job.options), "form": form, "qdq": asdict(job.backend.qdq)}


def _put(place: Path, program: Program, parity: list[StageParity], notes: list[str], leaves: Path | None) -> None:
    """Write beside the place, then rename: a run that dies leaves nothing that looks finished."""
    building = place.with_name(f"{place.name}.{os.getpid()}")
    building.mkdir()
    for name, model in program.graphs.items():
        outside.write(model, building / f"{name}.onnx")
    if program.wiring is not None:
        outside.write_wiring(program, building)
    if leaves is not None and leaves.exists():
        shutil.copytree(leaves, building / _LEFT)
    reference = program.reference
    cases = () if reference is None else reference.cases
    _write_cases(building / _ARRAYS, cases)
    about = {
        "graphs": list(program.graphs),
        "origin": None if reference is None else reference.origin,
        "cases": [case.name for case in cases],
        "history": [asdict(record) for record in program.history],
        "parity": [stage.model_dump(mode="json") for stage in parity],
        "notes": notes,
    }
    (building / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    building.rename(place)


def _take(place: Path, job: Job, leaves: Path | None) -> Program:
    import onnx

    about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    job.parity += [StageParity.model_validate(stage) for stage in about["parity"]]
    job.notes += about["notes"]
    if leaves is not None and (place / _LEFT).exists():
        shutil.copytree(place / _LEFT, leaves)
    history = [StageRecord(**{**record, "cached": True}) for record in about["history"]]
    wiring = storage.wiring_of(place) if (place / outside.WIRING).exists() else None
    graphs = {name: onnx.load(place / f"{name}.onnx") for name in about["graphs"]}
    cases = _read_cases(place / _ARRAYS, about["cases"])
    reference = None if about["origin"] is None else Reference(about["origin"], cases)
    return Program(graphs, wiring, reference, tuple(history))


def _write_cases(path: Path, cases: tuple[Case, ...]) -> None:
    arrays: dict[str, Any] = {}
    for i, case in enumerate(cases):
        for group in _GROUPS:
            arrays |= {f"{i}/{group}/{name}": value for name, value in getattr(case, group).items()}
        if case.tokens is not None:
            arrays[f"{i}/tokens/"] = case.tokens
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _read_cases(path: Path, names: list[str]) -> tuple[Case, ...]:
    with np.load(path, allow_pickle=False) as arrays:
        found: dict[str, Arrays] = {}
        for key in arrays.files:
            which, group, name = key.split("/", 2)
            found.setdefault(f"{which}/{group}", {})[name] = arrays[key]  # type: ignore[index]
    return tuple(
        Case(name, tokens=found.get(f"{i}/tokens", {}).get(""), **{g: found.get(f"{i}/{g}", {}) for g in _GROUPS})
        for i, name in enumerate(names)
    )
