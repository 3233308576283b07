"""Seeded inputs that every stage is judged on, drawn from tensor specs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.program import Case, Reference, TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays, Program

# Two sizes for each dynamic dimension, so that a frozen one is found: the first is typical, the second differs.
_SIZES = {"batch": (1, 2), "height": (224, 192), "width": (224, 160)}
_OTHER = (12, 7)
_LARGE = 64.0  # a float input 64 standard deviations out: far beyond training data, well inside FP16


def draw(
    specs: Sequence[TensorSpec],
    seed: int,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    examples: Arrays | None = None,
) -> list[Case]:
    """Cases for a program whose inputs are ``specs``.

    Args:
        specs: the program inputs.
        seed: fixes every value.
        sizes: dynamic dimension -> (typical size, other size); unnamed ones take sensible defaults.
        examples: real arrays by input; integers are drawn from theirs, which are known to mean something.

    Returns:
        ``normal-1`` and ``normal-2`` at the two sizes of every dynamic dimension, then zeros, ones, large values
        and a one-hot impulse at the first size. Integers are drawn from {0, 1} or the
        examples, booleans keep one True a row.
    """
    rng = np.random.default_rng(seed)
    table = {**_SIZES, **(sizes or {})}
    shape1, shape2 = ({s.name: _shape(s, table, which) for s in specs} for which in (0, 1))
    fills: list[tuple[str, Mapping[str, tuple[int, ...]], Callable[[Array], Array]]] = [
        ("normal-1", shape1, lambda x: x),
        ("normal-2", shape2, lambda x: x),
        ("zeros", shape1, np.zeros_like),
        ("ones", shape1, np.ones_like),
        ("large", shape1, lambda x: x * np.float32(_LARGE)),
        ("one-hot", shape1, _impulse),
    ]
    known = examples or {}
    return [
        Case(name, {s.name: _value(s, shapes[s.name], rng, fill, known.get(s.name)) for s in specs})
        for name, shapes, fill in fills
    ]


def of(
    program: Program, specs: Sequence[TensorSpec], seed: int, examples: Arrays | None = None, steps: int = 4
) -> list[Case]:
    """As ``draw``; of a wired program with tokens to force, ``steps`` of them."""
    rng = np.random.default_rng(seed)
    drawn = draw(specs, seed, examples=examples)
    if program.wiring is None:
        return drawn
    return [replace(c, tokens=rng.integers(0, 2, (len(next(iter(c.feeds.values()))), steps))) for c in drawn]


def fits(case: Case, specs: Sequence[TensorSpec]) -> bool:
    """Whether a case has every input of ``specs`` at a shape that its numbers allow."""
    shapes = {name: np.shape(value) for name, value in case.feeds.items()}
    return all(
        s.name in shapes
        and len(s.shape) == len(shapes[s.name])
        and all(not isinstance(d, int) or d == n for d, n in zip(s.shape, shapes[s.name], strict=True))
        for s in specs
    )


def samples_at_once(specs: Sequence[TensorSpec], usual: int) -> int:
    """How many samples a program takes in one run: ``usual``, or the number that its inputs' first axes say."""
    return next((s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], int)), usual)


def text_lengths(usual: int, longest: int) -> dict[str, list[int]]:
    """Valid positions of each row, by case, that a model of texts is judged on.

    Args:
        usual: a typical length. longest: what the model takes at most.

    Returns:
        Plain texts at three batch sizes and two lengths, length 1 and maximum, ragged rows, one fully masked row.
    """
    return {
        "normal-b3": [usual] * 3,
        "normal-b1": [usual],
        "normal-b2": [usual // 2] * 2,
        "length-1": [1, 1],
        "length-max": [longest],
        "ragged": [usual, 1, usual // 2],
        "masked-row": [usual, 0],
    }


def answered(
    cases: Sequence[Case],
    origin: str,
    run: Callable[[Case], Arrays],
    golden: Callable[[Case], Arrays] | None = None,
) -> Reference:
    """A Reference: every case with what ``run`` (and, in float64, ``golden``) computes for it."""
    filled = [replace(c, outputs=dict(run(c)), golden=dict(golden(c)) if golden else {}) for c in cases]
    return Reference(origin, tuple(filled))


def _shape(spec: TensorSpec, sizes: Mapping[str, tuple[int, int]], which: int) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else sizes.get(d, _OTHER)[which] for d in spec.shape)


def _value(
    spec: TensorSpec,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    fill: Callable[[Array], Array],
    example: Array | None,
) -> Array:
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return np.asarray(fill(np.asarray(rng.standard_normal(shape, np.float32))), spec.dtype)
    if kind == "b":
        keep = np.asarray(rng.random(shape) < 0.8)
        if keep.ndim:
            keep[..., :1] = True
        return keep
    drawn = rng.integers(0, 2, shape) if example is None else rng.choice(example.ravel(), shape)
    return np.asarray(drawn, spec.dtype)


def _impulse(x: Array) -> Array:
    impulse = np.zeros_like(x)
    impulse.reshape(-1)[impulse.size // 2] = 1
    return impulse
