"""What a user calls a model -> PyTorch modules with their specs, ready to export.

Three spellings reach the same place: a configuration name (``cbam_digits``), an importable factory
(``package.module:factory``) and a file (``path/to/file.py:factory``). A factory takes no argument and returns an
``nn.Module``, whose inputs are then given as shapes or as example arrays, or a :class:`edgeattn.models.Source`, of one
graph or of several.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgeattn import models, theirs, weights
from edgeattn.arrays import read_npz
from edgeattn.errors import BadInput, UsageError
from edgeattn.models import Source
from edgeattn.program import Case, free_inputs
from edgeattn.signature import Inputs, one_graph

__all__ = ["Inputs", "Resolved", "resolve"]


@dataclass(frozen=True)
class Resolved:
    """A model ready to export.

    Attributes:
        name: what the user typed.
        source: modules, specs, wiring.
        task: the task it was trained on, None if unknown.
        weights: where its weights come from, in words.
        real: the user's example inputs as a case, where they gave some.
        notes: what was done to its weights on the way, in words.
    """

    name: str
    source: Source
    task: str | None
    weights: str
    real: tuple[Case, ...] = ()
    notes: tuple[str, ...] = ()


def resolve(model: str, weights_from: str = "default", inputs: Inputs | None = None) -> Resolved:
    """Find and build a model.

    Args:
        model: a configuration name, ``package.module:factory`` or ``path/to/file.py:factory``.
        weights_from: ``default`` (the configuration's own), ``none``, or a file of :func:`edgeattn.weights.load`.
        inputs: what the user says of the inputs: shapes, dynamic dimensions, example arrays.

    Raises:
        UnknownName, UsageError: no such model, file or factory, or shapes that do not fit its forward().
        BadInput: the factory fails, its Source does not hold together, or the weights or examples do not fit.
        IntegrityError: an executable checkpoint.
    """
    inputs = inputs or Inputs()
    if ":" in model:
        return _user_model(model, weights_from, inputs)
    family, config = models.find(model)
    _declares_its_own(model, inputs)
    module = family.build(**config.options)
    origin, notes = _load_weights(module, config.weights if weights_from == "default" else weights_from)
    source = family.source(module)
    return Resolved(model, source, config.task, origin, _example(source, inputs), notes)


def _user_model(model: str, weights_from: str, inputs: Inputs) -> Resolved:
    factory = theirs.load(model, "factory")
    place, name = theirs.split(model)
    if not callable(factory):
        hint = f"write `def {name}(): return …` there"
        raise UsageError(f"'{name}' is {type(factory).__name__}, not a factory", where=place, hint=hint)
    with theirs.told(model, "while the model was built"):
        built = factory()
    if isinstance(built, Source):
        models.check(built, model)
        _declares_its_own(model, inputs)
        if weights_from not in ("default", "none"):
            hint = f"load them in {name}(), or let it return an nn.Module"
            raise UsageError("a factory that returns a Source brings its own weights", where="--weights", hint=hint)
        return Resolved(model, built, None, "as built", _example(built, inputs))
    if not isinstance(built, nn.Module):
        raise BadInput(
            f"'{name}' returned {type(built).__name__}", where=place, hint="return an nn.Module or an edgeattn Source"
        )
    origin, notes = _load_weights(built, None if weights_from == "default" else weights_from)
    source, real = one_graph(built, inputs)
    return Resolved(model, source, None, origin, real, notes)


def _load_weights(module: nn.Module, weights_from: str | None) -> tuple[str, tuple[str, ...]]:
    if weights_from is None or weights_from == "none":
        return "as built", ()
    notes: list[str] = []
    weights.load(module, weights_from, note=notes.append)
    return weights_from, tuple(notes)


def _declares_its_own(model: str, inputs: Inputs) -> None:
    """Shapes are for modules that say nothing themselves."""
    for option, given in (("--shape", inputs.shapes), ("--dynamic", inputs.dynamic)):
        if given:
            hint = "shapes are for your own modules"
            raise UsageError(f"'{model}' declares its own inputs", where=option, hint=hint)


def _example(source: Source, inputs: Inputs) -> tuple[Case, ...]:
    """The user's arrays as a case, checked against what the source declares."""
    if inputs.example is None:
        return ()
    specs = free_inputs({name: graph.inputs for name, graph in source.graphs.items()}, source.wiring)
    return (Case(f"real-{inputs.example.stem}", read_npz(inputs.example, specs)),)
