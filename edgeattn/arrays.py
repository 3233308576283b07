"""Reading arrays that users hand over: ``.npz`` files, never unpickled, checked against the inputs they are for."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput, OutOfResources, did_you_mean
from edgeattn.files import kind, lstat_mode

if TYPE_CHECKING:
    from edgeattn.program import Array, TensorSpec

MAX_BYTES = 4 << 30  # uncompressed


def read_npz(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays of an ``.npz``, one per input, samples on axis 0.

    Args:
        path: the file.
        specs: the inputs; a named dimension takes any size.

    Raises:
        BadInput: missing, not an .npz, a missing or extra key, a wrong dtype or shape, NaN, no sample.
        OutOfResources: it would unpack to more than 4 GiB.
    """
    where = str(path)
    _check_container(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            data = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"cannot be read as .npz: {error}", where=where, hint="save it with numpy.savez") from error
    names = [spec.name for spec in specs]
    for name in data:
        if name not in names:
            raise BadInput(f"has an array '{name}' that is no input", where=where, hint=did_you_mean(name, names))
    for spec in specs:
        if spec.name not in data:
            raise BadInput(f"has no array '{spec.name}'", where=where, hint=f"expected {spec}")
        _check_array(where, data[spec.name], spec)
    counts = {name: len(value) for name, value in data.items()}
    if len(set(counts.values())) > 1:
        raise BadInput(f"holds different numbers of samples: {counts}", where=where, hint="axis 0 counts the samples")
    return data


def _check_container(path: Path) -> None:
    mode = lstat_mode(path)
    if mode is None:
        raise BadInput("does not exist", where=str(path), hint="check the path")
    if not path.is_file():
        raise BadInput(f"is {kind(mode)}, not a file", where=str(path), hint="give an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"is no .npz: {error}", where=str(path), hint="save it with numpy.savez") from error
    if size > MAX_BYTES:
        raise OutOfResources(f"would unpack to {size / 2**30:.1f} GiB", where=str(path), hint="give fewer samples")


def _check_array(where: str, value: Array, spec: TensorSpec) -> None:
    if str(value.dtype) != spec.dtype:
        raise BadInput(f"'{spec.name}' is {value.dtype}", where=where, hint=f"expected {spec}")
    fits = value.ndim == len(spec.shape) and all(
        axis == 0 or not isinstance(want, int) or want == got
        for axis, (want, got) in enumerate(zip(spec.shape, value.shape, strict=True))
    )
    if not fits:
        raise BadInput(f"'{spec.name}' has shape {list(value.shape)}", where=where, hint=f"expected {spec}")
    if not len(value):
        raise BadInput(f"'{spec.name}' holds no sample", where=where, hint="give at least one")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        first = int(np.argwhere(~np.isfinite(value.reshape(len(value), -1)).all(axis=1))[0, 0])
        raise BadInput(f"'{spec.name}' is not finite in sample {first}", where=where, hint="remove NaN and Inf")
