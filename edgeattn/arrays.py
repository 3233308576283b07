"""Reading arrays that users hand over: ``.npz`` files, never unpickled, checked against the inputs they are for."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput, OutOfResources, did_you_mean, printable
from edgeattn.files import kind, lstat_mode
from edgeattn.program import INPUT_DTYPES

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays, TensorSpec

MAX_BYTES = 4 << 30  # uncompressed
_SUSPECT_BYTES, _SUSPECT_RATIO = 1 << 30, 200  # measured data shrinks tenfold at most, zeros a thousandfold
# What a damaged archive ends in: encrypted members are a RuntimeError, unknown compression a NotImplementedError.
_DAMAGED = (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError)


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
    data = stored(path)
    check_feeds(data, specs, where)
    for name, value in data.items():
        check_values(where, name, value)
    counts = {name: len(value) for name, value in data.items() if value.ndim}
    if len(set(counts.values())) > 1:
        raise BadInput(f"holds different numbers of samples: {counts}", where=where, hint="axis 0 counts the samples")
    return data


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` whose names, dtypes and shapes say what a model takes.

    Raises:
        BadInput: missing, not an .npz, a dtype that no engine takes, no value, NaN.
        OutOfResources: it would unpack to more than 4 GiB.
    """
    where = str(path)
    data = stored(path)
    for name, value in data.items():
        if str(value.dtype) not in INPUT_DTYPES:
            hint = f"save it as one of {', '.join(INPUT_DTYPES)}" + (
                f": {printable(name, 80)}.astype(numpy.float32)" if value.dtype == np.float64 else ""
            )
            raise BadInput(f"'{printable(name, 80)}' is {value.dtype}", where=where, hint=hint)
        if not value.size:
            raise BadInput(f"'{printable(name, 80)}' has shape {list(value.shape)}: it holds no value", where=where)
        check_values(where, name, value)
    return data


def check_feeds(data: Arrays, specs: Sequence[TensorSpec], where: str) -> None:
    """Hold arrays against the inputs they are for; a named dimension and axis 0 take any size.

    Raises:
        BadInput: a missing or extra array, a wrong dtype or shape, no sample.
    """
    names = [spec.name for spec in specs]
    for name in data:
        if name not in names:
            hint = did_you_mean(name, names)
            raise BadInput(f"has an array '{printable(name, 80)}' that is no input", where=where, hint=hint)
    for spec in specs:
        if spec.name not in data:
            raise BadInput(f"has no array '{spec.name}'", where=where, hint=f"expected {spec}")
        _check_array(where, data[spec.name], spec)


def stored(path: Path) -> dict[str, Array]:
    """Every array of an ``.npz``, whatever it holds; nothing is unpickled.

    Raises:
        BadInput: missing, or not an .npz. OutOfResources: it would unpack to more than 4 GiB.
    """
    _check_container(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in arrays.files}
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            hint = "stack the samples to one array of numbers: numpy.stack(samples)"
            raise BadInput(
                "holds an array of Python objects, which only running code reads", where=str(path), hint=hint
            ) from error
        raise BadInput(f"cannot be read as .npz: {error}", where=str(path), hint="save it with numpy.savez") from error
    for name, value in data.items():
        if not isinstance(value, np.ndarray):  # a member that is no .npy comes as bytes
            raise BadInput(f"'{printable(name, 80)}' is no array", where=str(path), hint="save it with numpy.savez")
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
            packed = sum(entry.compress_size for entry in archive.infolist())
    except _DAMAGED as error:
        raise BadInput(f"is no .npz: {error}", where=str(path), hint="save it with numpy.savez") from error
    if size > _SUSPECT_BYTES and size > _SUSPECT_RATIO * packed:
        what = (
            f"would unpack {size // max(packed, 1)}-fold, to {size / 2**30:.1f} GiB of hardly anything but repetition"
        )
        raise OutOfResources(what, where=str(path), hint="give real samples, or save them with numpy.savez")
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
    if not value.size:
        raise BadInput(f"'{spec.name}' holds no sample", where=where, hint="give at least one")


def check_values(where: str, name: str, value: Array, first: int = 0) -> None:
    """Refuse NaN and infinities, with the number of the sample; ``first`` is that of the first row.

    Raises:
        BadInput: a value that is not finite.
    """
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        rows = np.atleast_1d(value)
        bad = first + int(np.argwhere(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))[0, 0])
        raise BadInput(f"'{name}' is not finite in sample {bad}", where=where, hint="remove NaN and Inf")
