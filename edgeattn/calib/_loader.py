"""A user's own function that gives calibration samples.

It takes no argument and returns or yields samples: a dict of arrays by input name, or an array where the model has one
input. An array with the input's number of axes is a batch, samples on axis 0; with one axis fewer it is one sample.
Anything that converts to numpy will do, PyTorch tensors too; a loader may go on for ever, no more than asked is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import theirs
from edgeattn.arrays import check_feeds, check_values
from edgeattn.errors import BadInput, UsageError, printable
from edgeattn.program import Case

if TYPE_CHECKING:
    from edgeattn.program import Array, TensorSpec

_END = object()


def cases(function: Any, name: str, specs: Sequence[TensorSpec]) -> Iterator[Case]:
    """Cases of any number of samples.

    Args:
        function: what ``name`` means. specs: the inputs that a sample is for.

    Raises:
        UsageError: it is no function. BadInput: it fails, at its own line, or gives what is no sample, by its number.
    """
    if not callable(function):
        what = f"'{theirs.split(name)[1]}' is {type(function).__name__}, not a function"
        raise UsageError(what, where=name, hint="give a function that yields samples")
    doing = f"in {theirs.split(name)[1]}()"
    with theirs.told(name, doing):
        given = function()
        items = iter([given] if isinstance(given, Mapping) else given)
    number = 0
    while True:
        with theirs.told(name, doing):
            item = next(items, _END)
        if item is _END:
            return
        where = f"{name}: sample {number}"
        feeds = _feeds(item, specs, where)
        check_feeds(feeds, specs, where)
        for key, value in feeds.items():
            check_values(f"{name}", key, value, number)
        counts = {key: len(value) for key, value in feeds.items() if value.ndim}
        if len(set(counts.values())) > 1:
            raise BadInput(f"holds different numbers of samples: {counts}", where=where, hint="axis 0 counts them")
        yield Case("calibration", feeds)
        number += next(iter(counts.values()), 1)


def _feeds(item: Any, specs: Sequence[TensorSpec], where: str) -> dict[str, Array]:
    hint = f"yield a dict with {', '.join(f'{spec.name!r}' for spec in specs)}"
    if not isinstance(item, Mapping):
        if len(specs) != 1 or not hasattr(item, "shape"):
            more = " or an array" if len(specs) == 1 else ""
            raise BadInput(f"is {type(item).__name__}", where=where, hint=hint + more)
        item = {specs[0].name: item}
    ranks = {spec.name: len(spec.shape) for spec in specs}
    feeds = {}
    for key, value in item.items():
        array = _array(value, str(key), where)
        feeds[str(key)] = array[None] if array.ndim == ranks.get(str(key), 0) - 1 else array
    return feeds


def _array(value: Any, key: str, where: str) -> Array:
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"'{printable(key, 80)}' is {type(value).__name__}, which is no array: {theirs.said(error)}"
        raise BadInput(what, where=where, hint="give numpy arrays") from error
    if array.dtype.hasobject:
        raise BadInput(f"'{printable(key, 80)}' holds Python objects", where=where, hint="give arrays of numbers")
    return array
