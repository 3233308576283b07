"""Calibration data: whatever a user names, as cases for a program. One kind of source, one file.

==========================  =====================================================  ===============
``--calib``                 what it is                                             read by
==========================  =====================================================  ===============
``data.npz``                one array an input, samples on axis 0                  ``_npz.py``
``photos/``                 a folder of images, with ``--pixels``                  ``_images.py``
``file.py:function``        your function that gives or yields samples             ``_loader.py``
``package.module:function`` the same, from an installed package                    ``_loader.py``
``digits``, ``file.py``     a task: its training split                             here
==========================  =====================================================  ===============

Nothing here invents data: a range that random numbers set is a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import registry, tasks, theirs
from edgeattn.arrays import check_feeds
from edgeattn.calib import _images, _loader, _npz
from edgeattn.cases import samples_at_once
from edgeattn.errors import BadInput, UsageError, printable
from edgeattn.program import Case
from edgeattn.tasks import Task

if TYPE_CHECKING:
    from edgeattn.program import Array, TensorSpec

_BATCH = 4  # activations of a whole batch are held at once

HINT = "give an .npz with one array per input, a folder of images, your file.py:function, or a task's name"


def cases(
    name: str,
    specs: Sequence[TensorSpec],
    samples: int,
    pixels: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Case]:
    """The samples that a name means, in the batches that the program takes.

    Args:
        name: see the module's table.
        specs: the program's inputs.
        samples: how many at most; of a folder or an ``.npz`` they are spread evenly over all.
        pixels: how an image folder's pixels become input values (:func:`edgeattn.calib._images.Pixels.parse`).
        progress: hears how many samples were handed out.

    Raises:
        UsageError, UnknownName: no such file, folder, function or task; no or senseless ``pixels``.
        BadInput: a sample that is no sample for this program, by its number. OutOfResources: one that inflates.
    """
    usual = samples_at_once(specs, _BATCH)
    fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in specs)
    done = 0
    for case in _batched(_opened(name, specs, samples, usual, pixels), usual, samples, fixed, name):
        yield case
        done += case.samples
        progress(done)


def task(name: str) -> Task | None:
    """The task that a name means, whose metric can be asked for too; None where it means other data."""
    if name in registry.names("tasks") or name.endswith(".py"):
        return tasks.find(name)
    found = theirs.load(name, "task") if theirs.is_file(name) else None
    return tasks.sound(found, name) if isinstance(found, Task) else None


def _opened(name: str, specs: Sequence[TensorSpec], samples: int, batch: int, pixels: str) -> Iterator[Case]:
    """Cases of any number of samples; the caller stops when it has enough."""
    path = Path(name)
    if pixels and not path.is_dir():
        raise UsageError(f"'{printable(name, 80)}' is no folder of images", where="--pixels", hint="leave it out")
    if path.suffix == ".npz":
        return _npz.cases(path, specs, samples)
    if path.is_dir():
        return _images.cases(path, specs, samples, pixels)
    if ":" in name:
        found = theirs.load(name, "loader")
        if not isinstance(found, Task):
            return _loader.cases(found, name, specs)
        return _from_task(tasks.sound(found, name), name, specs, samples, batch)
    if not theirs.is_file(name) and (path.suffix or len(path.parts) != 1):
        raise UsageError("no such file or folder", where=printable(name, 200), hint=HINT)
    if not theirs.is_file(name) and name not in registry.names("tasks"):
        near = f"{HINT}: {', '.join(registry.names('tasks'))}"
        raise UsageError("is no task, file or folder", where=printable(name, 200), hint=near)
    return _from_task(tasks.find(name), name, specs, samples, batch)


def _from_task(task: Task, name: str, specs: Sequence[TensorSpec], samples: int, batch: int) -> Iterator[Case]:
    number = 0
    for found in task.train(samples, batch):
        check_feeds(found.feeds, specs, f"task {name}: sample {number}")
        number += len(found.targets)
        yield Case("calibration", found.feeds, found.tokens)


def _batched(given: Iterator[Case], size: int, most: int, fixed: bool, name: str) -> Iterator[Case]:
    """The first ``most`` samples in batches of ``size``, fewer where shapes change or all is given out.

    A program of a fixed batch size gets whole batches only.
    """
    held: list[Case] = []
    given_out = taken = 0
    for single in (one for case in given for one in _singles(case)):
        if held and (len(held) == size or _shapes(single) != _shapes(held[0])):
            if not fixed or len(held) == size:
                yield _joined(held)
                given_out += len(held)
            held = []
        held.append(single)
        taken += 1
        if taken == most:
            break
    if held and (not fixed or len(held) == size):
        yield _joined(held)
        given_out += len(held)
    if taken and not given_out:
        raise BadInput(f"holds {taken} samples, and the model takes {size} at once", where=name, hint="give more")


def _singles(case: Case) -> Iterator[Case]:
    for i in range(case.samples):
        feeds = {name: value[i : i + 1] if value.ndim else value for name, value in case.feeds.items()}
        yield Case(case.name, feeds, None if case.tokens is None else case.tokens[i : i + 1])


def _shapes(case: Case) -> list[tuple[int, ...]]:
    return [value.shape for value in (*case.feeds.values(), *(() if case.tokens is None else (case.tokens,)))]


def _joined(held: Sequence[Case]) -> Case:
    def stacked(values: Sequence[Array]) -> Array:
        return np.concatenate(values) if values[0].ndim else values[0]

    feeds = {name: stacked([case.feeds[name] for case in held]) for name in held[0].feeds}
    tokens = [case.tokens for case in held if case.tokens is not None]
    return Case(held[0].name, feeds, np.concatenate(tokens) if tokens else None)
