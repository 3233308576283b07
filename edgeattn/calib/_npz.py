"""An ``.npz`` with one array an input, samples on axis 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.arrays import read_npz
from edgeattn.program import Case

if TYPE_CHECKING:
    from edgeattn.program import Array, TensorSpec


def cases(path: Path, specs: Sequence[TensorSpec], samples: int) -> Iterator[Case]:
    """Single samples, spread evenly over the file; raises what :func:`edgeattn.arrays.read_npz` does."""
    data = read_npz(path, specs)
    total = next((len(value) for value in data.values() if value.ndim), 1)
    for i in spread(total, samples):
        yield Case("calibration", {name: value[i : i + 1] if value.ndim else value for name, value in data.items()})


def spread(total: int, most: int) -> Array:
    """At most ``most`` of ``total`` indices, ascending, evenly apart: the same ones every time."""
    taken = min(total, most)
    return np.arange(taken) * total // max(taken, 1)
