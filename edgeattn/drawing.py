"""Inputs for a graph that came with none: the sizes it takes are found by trying, or read off what the user gives.

A file from elsewhere says ``float32[?, 3, ?, ?]`` and nothing more; a detector of text lines then wants heights that
are multiples of 32, a voice detector at least 512 samples. Sizes are tried from the usual to the large until the graph
runs at two of them, so that a frozen size cannot pass unseen; where only one runs, that is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import cases
from edgeattn.arrays import check_feeds, read_arrays
from edgeattn.errors import BadInput, EdgeattnError, OutOfResources, UsageError, did_you_mean
from edgeattn.program import Case, TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Arrays

Sizes = dict[str, tuple[int, int]]
Run = Callable[[Case], object]

# (typical, other) sizes of a dimension, in the order they are tried: of an image, of anything else.
_IMAGES = ((64, 96), (224, 192), (32, 64), (48, 320), (640, 480), (512, 256), (299, 331))
_LENGTHS = ((12, 7), (16, 8), (32, 64), (128, 96), (512, 768), (1024, 2048), (16000, 8000))
_TEXTS = 5  # of these are lengths of texts too: attention over more tokens takes gigabytes
_KNOWN = ("batch", "height", "width")  # cases.draw has sizes for these
_BATCH = ("batch", "bs", "n", "b", "bsz")
_LONG = ("seq", "len", "time", "source", "target", "past", "step", "frame", "token", "width", "height")


@dataclass(frozen=True)
class Given:
    """What a user says of a graph's inputs.

    Attributes:
        inputs: an ``.npz`` of real inputs, one array per input. shapes: an example shape per input.
    """

    inputs: Path | None = None
    shapes: Sequence[TensorSpec] = ()


def draw(
    specs: Sequence[TensorSpec],
    run: Run,
    given: Given | None = None,
    seed: int = 0,
    warn: Callable[[str], None] = lambda line: None,
) -> list[Case]:
    """Cases that a program takes: real ones where they are given, then seeded ones at two sizes, then the edges.

    Args:
        specs: the program's inputs. run: raises an EdgeattnError for a case that the program does not take.
        given: real inputs or shapes. seed: fixes every value.
        warn: told when a dynamic dimension could be run at one size only.

    Raises:
        BadInput: an ``.npz`` or a shape that does not fit, or no size was found that the graph runs at.
        OutOfResources: memory ran out at the first sizes tried, and no others run.
        EdgeattnError: what ``run`` raises for the user's own inputs.
        UsageError: a shape for an input that is not there.
    """
    given = given or Given()
    asked = named(specs)
    real = read_arrays(given.inputs) if given.inputs else {}
    if real:
        check_feeds(real, specs, str(given.inputs))
        run(Case("real-1", real))  # the user's own input must run: what it raises is the answer
    sizes = _sizes_of(asked, {name: value.shape for name, value in real.items()} or _declared(specs, given.shapes))
    first: EdgeattnError | None = None
    for table in _around(sizes) if sizes else _guesses(asked):
        drawn = cases.draw(asked, seed, table, real or None)
        try:
            for case in drawn[:2]:
                run(case)
        except EdgeattnError as error:
            first = first or error
            continue
        if frozen := _frozen(asked, table):
            warn(f"judged at one size of {frozen} only: no other that was tried runs")
        edges = _edges(asked, table, drawn[0], seed, real or None, run)
        return [*([Case("real-1", real)] if real else []), *drawn, *edges]
    if real:
        return [Case("real-1", real)]
    assert first is not None
    if isinstance(first, OutOfResources):  # not the sizes' fault
        raise first
    raise BadInput(
        f"does not run at any size that was tried for its inputs: {first.what}",
        where=", ".join(str(spec) for spec in specs),
        hint="give real ones, --inputs x.npz, or a shape that it takes, --shape NAME=1x3x224x224",
    ) from first


def _edges(
    specs: Sequence[TensorSpec], table: Sizes, usual: Case, seed: int, examples: Arrays | None, run: Run
) -> list[Case]:
    """Cases at the edges, of those that the graph takes: every length is 1; every mask says False everywhere."""
    lengths = {d: (1, 1) for spec in specs for d in spec.shape if isinstance(d, str) and d != "batch"}
    masks = {spec.name: np.zeros_like(usual.feeds[spec.name]) for spec in specs if spec.dtype == "bool"}
    edges = []
    if lengths:
        edges.append(replace(cases.draw(specs, seed, {**table, **lengths}, examples)[0], name="length-1"))
    if masks:
        edges.append(Case("all-masked", {**usual.feeds, **masks}))
    return [case for case in edges if _takes(run, case)]


def _takes(run: Run, case: Case) -> bool:
    try:
        run(case)
    except EdgeattnError:
        return False
    return True


def _frozen(specs: Sequence[TensorSpec], table: Sizes) -> str:
    """The dynamic dimensions that the table gives one size, in words."""
    dims = dict.fromkeys(d for spec in specs for d in spec.shape if isinstance(d, str))
    return ", ".join(f"{d} = {table[d][0]}" for d in dims if d in table and table[d][0] == table[d][1])


def named(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The specs with a name for every dynamic dimension; what looks like the batch is called so."""
    batch = _batch_symbols(specs)
    return [
        replace(spec, shape=tuple(_named(spec, axis, dim, batch) for axis, dim in enumerate(spec.shape)))
        for spec in specs
    ]


def _batch_symbols(specs: Sequence[TensorSpec]) -> set[str]:
    """Symbols that mean the batch: by name, or leading an input in which no other symbol does, the commonest first."""
    symbols = [d for spec in specs for d in dict.fromkeys(spec.shape) if isinstance(d, str) and d != "?"]
    if by_name := {d for d in symbols if d.lower() in _BATCH or "batch" in d.lower()}:
        return by_name
    leading = dict.fromkeys(spec.shape[0] for spec in specs if len(spec.shape) > 1)
    fit = [d for d in leading if isinstance(d, str) and d != "?" and not any(w in d.lower() for w in (*_LONG, *_KNOWN))]
    batch: set[str] = set()
    for symbol in sorted(fit, key=symbols.count, reverse=True):
        if not any(symbol in spec.shape and batch & set(spec.shape) for spec in specs):
            batch.add(symbol)
    return batch


def _named(spec: TensorSpec, axis: int, dim: int | str, batch: set[str]) -> int | str:
    if isinstance(dim, int):
        return dim
    if dim != "?":
        return "batch" if dim in batch else dim
    state = axis == 1 and len(spec.shape) == 3 and all(isinstance(spec.shape[i], int) for i in (0, 2))  # (layers, B, H)
    return "batch" if state or (axis == 0 and len(spec.shape) > 1) else f"{spec.name}.{axis}"


def _declared(specs: Sequence[TensorSpec], shapes: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    known = [spec.name for spec in specs]
    for shape in shapes:
        if shape.name not in known:
            hint = did_you_mean(shape.name, known) or f"its inputs: {', '.join(known)}"
            raise UsageError(f"there is no input '{shape.name}'", where=f"--shape {shape.name}", hint=hint)
    return {shape.name: tuple(int(d) for d in shape.shape) for shape in shapes}


def _sizes_of(specs: Sequence[TensorSpec], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Dynamic dimension -> its size in the shapes; a shape that contradicts the spec is an error."""
    sizes: dict[str, int] = {}
    for spec in specs:
        shape = shapes.get(spec.name)
        if shape is None:
            continue
        fits = len(shape) == len(spec.shape) and all(
            want == got if isinstance(want, int) else sizes.setdefault(want, got) == got
            for want, got in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise BadInput(f"shape {list(shape)} does not fit", where=f"input '{spec.name}'", hint=f"expected {spec}")
    return sizes


def _around(sizes: dict[str, int]) -> Iterator[Sizes]:
    """The given sizes, and beside them others: twice, half as much again, the same."""
    for factor in (2.0, 1.5, 1.0):
        yield {dim: (1, 2) if dim == "batch" else (n, math.ceil(factor * n)) for dim, n in sizes.items()}
    yield {dim: (size, size) for dim, size in sizes.items()}


def _guesses(specs: Sequence[TensorSpec]) -> Iterator[Sizes]:
    """Usual sizes first; the other size is given up before a larger one is tried last."""
    images = {d for s in specs if len(s.shape) == 4 for d in s.shape[2:] if isinstance(d, str)} - {"batch"}
    lengths = {d for s in specs for d in s.shape if isinstance(d, str)} - images - {"batch"}
    long = _LENGTHS if all(spec.dtype.startswith("float") for spec in specs) else _LENGTHS[:_TEXTS]
    tries = list(product(_IMAGES if images else _IMAGES[:1], long if lengths else _LENGTHS[:1]))
    tries.sort(key=lambda pair: _IMAGES.index(pair[0]) + _LENGTHS.index(pair[1]))
    yield dict.fromkeys(lengths, _LENGTHS[0]) | dict.fromkeys(images - set(_KNOWN), _IMAGES[1])
    for image, length in tries:
        yield dict.fromkeys(images, image) | dict.fromkeys(lengths, length)
    for image, length in tries:
        one = {"batch": (1, 1)} | dict.fromkeys(images, (image[0],) * 2) | dict.fromkeys(lengths, (length[0],) * 2)
        yield one
