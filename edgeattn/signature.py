"""A user's module and what they say of its inputs -> a one-graph Source, in the names of forward()'s parameters.

Shapes and dtypes are declared (``tokens=1x16:int64``), or read off example arrays, which are then one of the cases
that every stage is judged on.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from edgeattn import cases, theirs
from edgeattn.arrays import read_arrays
from edgeattn.errors import BadInput, Unsupported, UsageError, did_you_mean, printable
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Array

Axes = Mapping[tuple[str, int], str]


@dataclass(frozen=True)
class Inputs:
    """What a user says of their model's inputs.

    Attributes:
        shapes: an example shape and a dtype per input, for a module that declares nothing.
        dynamic: ``(input, axis, name)`` of dynamic dimensions; without any, axis 0 is ``batch``.
        example: an ``.npz`` of real inputs; it gives shapes and dtypes too.
    """

    shapes: Sequence[TensorSpec] = ()
    dynamic: Sequence[tuple[str, int, str]] = ()
    example: Path | None = None


@dataclass(frozen=True)
class Signature:
    """forward()'s parameters that can be given by position, and which of them have to be."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    text: str = field(default="")

    @classmethod
    def of(cls, module: nn.Module) -> Signature:
        """Read it off a module."""
        parameters = inspect.signature(module.forward).parameters.values()
        placed = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
        keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        text = f"forward({', '.join(str(p).partition(':')[0].partition('=')[0] for p in parameters)})"
        if keyword_only:
            hint = "wrap the module in one whose forward() takes its inputs by position"
            raise UsageError(f"'{keyword_only[0]}' can be given by keyword only", where=text, hint=hint)
        return cls(tuple(p.name for p in placed), tuple(p.name for p in placed if p.default is p.empty), text)


def one_graph(module: nn.Module, inputs: Inputs) -> tuple[Source, tuple[Case, ...]]:
    """The source of a module, and its user's example as a case where there is one.

    Args:
        module: its forward() takes tensors by position and returns a tensor or a tuple of tensors.
        inputs: shapes or an example for every parameter without a default.

    Raises:
        UsageError: shapes or dynamic axes that do not fit the signature. BadInput: an example that does not, or
            a forward() that fails on it. Unsupported: outputs that are no tensors.
    """
    signature = Signature.of(module)
    example = _read_example(inputs, signature)
    declared = {s.name: s for s in inputs.shapes} or {
        name: TensorSpec(name, str(value.dtype), value.shape) for name, value in example.items()
    }
    _check_declared(declared, signature)
    ordered = {name: declared[name] for name in signature.names if name in declared}
    axes = _dynamic_axes(ordered, inputs.dynamic, signature)
    specs = tuple(
        TensorSpec(n, s.dtype, tuple(axes.get((n, i), d) for i, d in enumerate(s.shape))) for n, s in ordered.items()
    )
    sizes = {label: _two_sizes(label, int(ordered[name].shape[axis])) for (name, axis), label in axes.items()}
    outputs = _output_names(module, ordered, example)
    source = Source(
        {"main": GraphSource(module, specs, outputs)}, cases=lambda seed: cases.draw(specs, seed, sizes, example)
    )
    if inputs.example is None:
        return source, ()
    return source, (Case(f"real-{inputs.example.stem}", {name: example[name] for name in ordered}),)


def _read_example(inputs: Inputs, signature: Signature) -> dict[str, Array]:
    """The arrays of the example, each of them a parameter of forward()."""
    if inputs.example is None:
        return {}
    if inputs.shapes:
        hint = "keep --inputs: the arrays say shapes and dtypes"
        raise UsageError("--shape and --inputs exclude each other", where=signature.text, hint=hint)
    where, found = str(inputs.example), read_arrays(inputs.example)
    for name in found:
        if name not in signature.names:
            hint = did_you_mean(name, signature.names)
            raise BadInput(
                f"has an array '{printable(name, 80)}' that {signature.text} does not take", where=where, hint=hint
            )
    for name in signature.required:
        if name not in found:
            hint = f"it has {', '.join(printable(n, 80) for n in found) or 'none'}; save every input by its name"
            raise BadInput(f"has no array '{name}', which {signature.text} takes", where=where, hint=hint)
    return found


def _check_declared(declared: Mapping[str, TensorSpec], signature: Signature) -> None:
    names, text = signature.names, signature.text
    if not declared:
        missing = " ".join(f"--shape {name}=1x3x224x224" for name in signature.required or ["x"])
        hint = f"give {missing} (export.shapes), or --inputs example.npz (export.inputs)"
        raise UsageError("its input shapes are unknown", where=text, hint=hint)
    for name in declared:
        if name not in names:
            raise UsageError(f"has no input '{printable(name, 80)}'", where=text, hint=did_you_mean(name, names))
    last = max(names.index(name) for name in declared)
    needed = [name for i, name in enumerate(names) if i < last or name in signature.required]
    for name in needed:  # inputs are passed by position: none before the last may be left out
        if name not in declared:
            raise UsageError(f"input '{name}' has no shape", where=text, hint=f"give --shape {name}=… too")


def _dynamic_axes(
    declared: Mapping[str, TensorSpec], dynamic: Sequence[tuple[str, int, str]], signature: Signature
) -> Axes:
    """``(input, axis) -> name``; without any said, axis 0 of every input as long as the first's is the batch."""
    if not dynamic:
        first = next(iter(declared.values())).shape[:1]
        return {(name, 0): "batch" for name, spec in declared.items() if spec.shape and spec.shape[:1] == first}
    sizes: dict[str, tuple[str, int | str]] = {}
    for name, axis, label in dynamic:
        where = f"--dynamic {printable(name, 80)}:{axis}={label}"
        if name not in declared:
            raise UsageError(
                f"{signature.text} has no input '{printable(name, 80)}'", where=where, hint=did_you_mean(name, declared)
            )
        shape = declared[name].shape
        if axis >= len(shape):
            raise UsageError(f"'{name}' has {len(shape)} axes", where=where, hint="axes count from 0")
        other, size = sizes.setdefault(label, (name, shape[axis]))
        if size != shape[axis]:
            hint = "give them different names"
            raise UsageError(f"'{label}' is {size} in '{other}' and {shape[axis]} in '{name}'", where=where, hint=hint)
    return {(name, axis): label for name, axis, label in dynamic}


def _two_sizes(label: str, given: int) -> tuple[int, int]:
    """A typical and another size of a dynamic dimension; multiples of 32 stay multiples, for strided networks."""
    if label == "batch":
        return (1, 2)
    if given % 32 == 0 and given > 32:
        return (given, given - 32)
    return (given, given + 3)


def _output_names(
    module: nn.Module, declared: Mapping[str, TensorSpec], example: Mapping[str, Array]
) -> tuple[str, ...]:
    where = f"{type(module).__name__}.forward()"
    zeros = {n: np.zeros([int(d) for d in s.shape], s.dtype) for n, s in declared.items()}
    arrays = {name: np.asarray(example.get(name, zero), order="C") for name, zero in zeros.items()}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    with torch.inference_mode(), theirs.told(where, "in forward()"):
        result = theirs.forward(module.eval(), tensors)
    if isinstance(result, torch.Tensor):
        return ("output",)
    if isinstance(result, (tuple, list)) and result and all(isinstance(r, torch.Tensor) for r in result):
        return tuple(f"output_{i}" for i in range(len(result)))
    raise Unsupported(
        f"returns {type(result).__name__}", where=where, hint="return a tensor or a tuple of tensors (wrap the module)"
    )
