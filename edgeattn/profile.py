"""The sizes that an engine is built for where a dimension is dynamic: least, most typical, largest.

One set of such spans is a *bucket*. An engine that compiles ahead of time takes one bucket or several and is fastest
at the typical size of each; what fits no bucket it cannot run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from edgeattn.errors import UsageError, did_you_mean, printable
from edgeattn.graphs import input_specs, program_inputs

if TYPE_CHECKING:
    from edgeattn.program import Case, Program, Reference, TensorSpec

Span: TypeAlias = tuple[int, int, int]
Bucket: TypeAlias = Mapping[str, Span]

_LARGEST = 2**31 - 1


def parse_span(text: object) -> Span:
    """``"1:4:8"`` or ``[1, 4, 8]`` -> ``(1, 4, 8)``; one number is all three.

    Raises:
        ValueError: no such numbers, or not in order.
    """
    parts = text.split(":") if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else [text]
    known = [str(p) for p in parts if not isinstance(p, bool) and re.fullmatch(r"[0-9]{1,10}", str(p))]
    if len(known) != len(parts) or len(known) not in (1, 3):
        raise ValueError("expected LEAST:TYPICAL:LARGEST, like 1:4:8, or one size")
    least, typical, largest = (int(p) for p in (known if len(known) == 3 else known * 3))
    if not least <= typical <= largest <= _LARGEST or largest < 1:
        raise ValueError(f"expected sizes in order and below 2^31, got {least}:{typical}:{largest}")
    return least, typical, largest


def parse_bucket(text: str) -> dict[str, Span]:
    """``"batch=1:4:8,source=1:10:30"`` -> its spans by name.

    Raises:
        ValueError: not of that form, or a name twice.
    """
    bucket: dict[str, Span] = {}
    for part in text.split(","):
        name, equals, sizes = part.rpartition("=")
        if not equals or not name:
            raise ValueError("expected NAME=LEAST:TYPICAL:LARGEST, like batch=1:4:8")
        if name in bucket:
            raise ValueError(f"'{printable(name, 80)}' is there twice")
        bucket[name] = parse_span(sizes)
    return bucket


def dimensions(spec: TensorSpec) -> list[int | str]:
    """A tensor's dimensions; a dynamic one without a name is called after its place, ``x:0``."""
    return [f"{spec.name}:{axis}" if dim in ("", "?") else dim for axis, dim in enumerate(spec.shape)]


def seen(program: Program) -> dict[str, Span]:
    """The sizes that a program's dynamic dimensions take over the cases it is judged on."""
    if program.reference is None:
        return {}
    inputs = {spec.name: spec for spec in program_inputs(program)}
    sizes: dict[str, list[int]] = {}
    for case in (program.reference.typical, *program.reference.cases):
        for name in inputs.keys() & case.feeds.keys():
            for dim, size in zip(dimensions(inputs[name]), case.feeds[name].shape, strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, []).append(size)
    return {name: (min(all_), all_[0], max(all_)) for name, all_ in sizes.items()}


def complete(program: Program, asked: Sequence[Bucket]) -> tuple[dict[str, Span], ...]:
    """The buckets that a user asked for; what they leave open is as the program's cases have it.

    Raises:
        UsageError: a name that is no dynamic dimension of the program, or one of which no size is known.
    """
    names = dynamic(program)
    for bucket in asked:
        for name in bucket:
            if name not in names:
                hint = did_you_mean(name, names) if names else "every dimension is fixed"
                raise UsageError(f"no dynamic dimension '{printable(name, 80)}'", where="profile", hint=hint)
    return of(program, asked)


def of(program: Program, buckets: Sequence[Bucket]) -> tuple[dict[str, Span], ...]:
    """Buckets for the dynamic dimensions that a program has; it may have lost some since they were asked for.

    Raises:
        UsageError: a dimension of which no size is known.
    """
    names = dynamic(program)
    known = {**_states(program), **seen(program)}
    filled = tuple({name: span for name, span in {**known, **b}.items() if name in names} for b in buckets or [{}])
    for name in names:
        if any(name not in bucket for bucket in filled):
            hint = f"say which it takes: --profile {name}=1:1:8, or fix it: `edgeattn rewrite --fix {name}=1`"
            raise UsageError(f"no size is known of dimension '{printable(name, 80)}'", where="profile", hint=hint)
    return filled


def dynamic(program: Program) -> list[str]:
    """The names of a program's dynamic dimensions, each once."""
    found = (
        dim
        for model in program.graphs.values()
        for spec in input_specs(model)
        for dim in dimensions(spec)
        if isinstance(dim, str)
    )
    return list(dict.fromkeys(found))


def _states(program: Program) -> dict[str, Span]:
    """A state that no case feeds, such as a cache of keys, grows from nothing to the longest answer."""
    if program.wiring is None:
        return {}
    longest = program.wiring.stop.max_steps
    loop = input_specs(program.graphs[program.wiring.loop])
    held = [spec for spec in loop if f"{program.wiring.loop}.{spec.name}" in program.wiring.state]
    given = {dim for spec in program_inputs(program) for dim in dimensions(spec)}
    grown = (dim for spec in held for dim in dimensions(spec) if isinstance(dim, str) and dim not in given)
    return {dim: (0, max(1, longest // 2), longest) for dim in grown}


def within(program: Program, buckets: Sequence[Bucket]) -> Reference:
    """A program's reference with the cases that fit a bucket; all where there is none.

    Raises:
        UsageError: none of them fits.
    """
    assert program.reference is not None
    inputs = program_inputs(program)
    cases = program.reference.cases
    kept = tuple(case for case in cases if not buckets or fitting(buckets, _sizes(inputs, case)) is not None)
    if not kept:
        told = " or ".join(map(words, buckets))
        what = f"none of the inputs that the program is judged on fits {told}"
        raise UsageError(what, where="profile", hint=f"the cases take {words(seen(program))}")
    return replace(program.reference, cases=kept)


def _sizes(inputs: Sequence[TensorSpec], case: Case) -> dict[str, int]:
    given = [(spec, case.feeds[spec.name].shape) for spec in inputs if spec.name in case.feeds]
    return {
        dim: size
        for spec, shape in given
        for dim, size in zip(dimensions(spec), shape, strict=True)
        if isinstance(dim, str)
    }


def most(program: Program, buckets: Sequence[Bucket], usual: int) -> int:
    """How many samples may be run at once: ``usual``, or fewer where no bucket takes as many."""
    batch = str(next((dim for spec in program_inputs(program) for dim in dimensions(spec)[:1]), ""))
    return min(usual, max((bucket[batch][2] for bucket in buckets if batch in bucket), default=usual))


def words(bucket: Bucket) -> str:
    """``batch 1 to 8, source 10``."""
    spans = ((name, least, largest) for name, (least, _, largest) in bucket.items())
    return ", ".join(
        f"{name} {least}" + (f" to {largest}" if largest > least else "") for name, least, largest in spans
    )


def fitting(buckets: Iterable[Bucket], sizes: Mapping[str, int]) -> int | None:
    """The first bucket that holds ``sizes``; None where none does."""
    for number, bucket in enumerate(buckets):
        if all(bucket[name][0] <= size <= bucket[name][2] for name, size in sizes.items() if name in bucket):
            return number
    return None
