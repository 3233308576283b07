"""What a user calls a model -> PyTorch modules with their specs, ready to export.

Three spellings reach the same place: a configuration name (``cbam_digits``), an importable factory
(``package.module:factory``) and a file (``path/to/file.py:factory``). A factory takes no argument and returns an
``nn.Module``, whose inputs are then given as shapes, or a :class:`edgeattn.models.Source`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeattn import cases, models, weights
from edgeattn.errors import BadInput, EdgeattnError, Unsupported, UsageError, did_you_mean, printable
from edgeattn.models import GraphSource, Source
from edgeattn.program import TensorSpec

Shapes = Mapping[str, tuple[int, ...]]
Dynamic = Sequence[tuple[str, int, str]]


@dataclass(frozen=True)
class Resolved:
    """A model ready to export.

    Attributes:
        name: what the user typed.
        source: modules, specs, wiring.
        task: the task it was trained on, None if unknown.
        weights: where its weights come from, in words.
    """

    name: str
    source: Source
    task: str | None
    weights: str


def resolve(model: str, weights_from: str = "default", shapes: Shapes | None = None, dynamic: Dynamic = ()) -> Resolved:
    """Find and build a model.

    Args:
        model: a configuration name, ``package.module:factory`` or ``path/to/file.py:factory``.
        weights_from: ``default`` (the configuration's own), ``none``, or a safetensors file.
        shapes: example shape by input name, for a user's module.
        dynamic: ``(input, axis, name)`` of dynamic dimensions, for a user's module; axis 0 is ``batch`` by default.

    Raises:
        UnknownName, UsageError: no such model, file or factory, or shapes that do not fit its forward().
        BadInput: the factory fails, or the weights do not fit. IntegrityError: an executable checkpoint.
    """
    if ":" in model:
        return _user_model(model, weights_from, shapes or {}, dynamic)
    family, config = models.find(model)
    if shapes:
        raise UsageError(f"'{model}' declares its own inputs", where="--shape", hint="shapes are for your own modules")
    module = family.build(**config.options)
    origin = _load_weights(module, config.weights if weights_from == "default" else weights_from)
    return Resolved(model, family.source(module), config.task, origin)


def _load_weights(module: nn.Module, weights_from: str | None) -> str:
    if weights_from in (None, "none", "default"):
        return "as built (untrained)" if weights_from is None else "as built"
    assert weights_from is not None
    weights.load(module, weights_from)
    return weights_from


def _user_model(model: str, weights_from: str, shapes: Shapes, dynamic: Dynamic) -> Resolved:
    place, _, name = model.rpartition(":")
    with _their_code(model):
        factory = _factory(place, name)
        built = factory()
    if isinstance(built, Source):
        return Resolved(model, built, None, "as built")
    if not isinstance(built, nn.Module):
        raise BadInput(
            f"'{name}' returned {type(built).__name__}", where=place, hint="return an nn.Module or an edgeattn Source"
        )
    origin = _load_weights(built, weights_from)
    return Resolved(model, user_source(built, shapes, dynamic), None, origin)


def _factory(place: str, name: str) -> Callable[[], Any]:
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UsageError("no such file", where=place, hint="give path/to/file.py:factory")
        spec = importlib.util.spec_from_file_location(f"edgeattn_user_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(path.parent.resolve()))
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"has no factory '{printable(name, 80)}'", where=place, hint=did_you_mean(name, known))
    found: Callable[[], Any] = factory
    return found


@contextlib.contextmanager
def _their_code(where: str) -> Iterator[None]:
    """Run a user's code: what it prints goes to stderr, how it fails is told in one line with its own file and line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except EdgeattnError:
        raise
    except SyntaxError as error:
        raise BadInput(f"syntax error: {error.msg}", where=f"{error.filename}:{error.lineno}") from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot be imported: {error}", where=where, hint="run from its directory, or install it"
        ) from error
    except SystemExit as error:
        raise BadInput(f"called sys.exit({error.code!r}) while the model was built", where=where) from error
    except Exception as error:
        frames = [
            f for f in inspect.trace() if "edgeattn/source.py" not in f.filename and "importlib" not in f.filename
        ]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else where
        raise BadInput(f"raised {type(error).__name__}: {error}", where=place) from error


def user_source(module: nn.Module, shapes: Shapes, dynamic: Dynamic = ()) -> Source:
    """A user's module as a one-graph Source.

    Args:
        module: its forward() takes float32 tensors and returns a tensor or a tuple of tensors.
        shapes: example shape of every input, in the names of forward()'s parameters.
        dynamic: ``(input, axis, name)``; without any, axis 0 of every input is ``batch``.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    known = [p.name for p in parameters]
    signature = f"forward({', '.join(known)})"
    if not shapes:
        missing = " ".join(f"--shape {name}=1x3x224x224" for name in required or ["x"])
        raise UsageError("its input shapes are unknown", where=signature, hint=f"give {missing} (or export.shapes)")
    for name in (*shapes, *(d[0] for d in dynamic)):
        if name not in known:
            raise UsageError(f"has no input '{printable(name, 80)}'", where=signature, hint=did_you_mean(name, known))
    absent = [name for name in required if name not in shapes]
    if absent:
        raise UsageError(f"input '{absent[0]}' has no shape", where=signature, hint=f"give --shape {absent[0]}=…")
    ordered = {name: shapes[name] for name in known if name in shapes}
    named = _dynamic_axes(ordered, dynamic)
    specs = tuple(
        TensorSpec(n, "float32", tuple(named.get((n, i), d) for i, d in enumerate(s))) for n, s in ordered.items()
    )
    sizes = {name: _two_sizes(name, ordered[i][axis]) for (i, axis), name in named.items()}
    outputs = _output_names(module, ordered)
    graph = GraphSource(module, specs, outputs)
    return Source({"main": graph}, cases=lambda seed: cases.draw(specs, seed, sizes))


def _dynamic_axes(shapes: Shapes, dynamic: Dynamic) -> dict[tuple[str, int], str]:
    if not dynamic:
        return {(name, 0): "batch" for name in shapes}
    for name, axis, _ in dynamic:
        if axis >= len(shapes[name]):
            raise UsageError(f"'{name}' has {len(shapes[name])} axes", where=f"--dynamic {name}:{axis}")
    return {(name, axis): label for name, axis, label in dynamic}


def _two_sizes(name: str, given: int) -> tuple[int, int]:
    """A typical and another size of a dynamic dimension; multiples of 32 stay multiples, for strided networks."""
    if name == "batch":
        return (1, 2)
    if given % 32 == 0 and given > 32:
        return (given, given - 32)
    return (given, given + 3)


def _output_names(module: nn.Module, shapes: Shapes) -> tuple[str, ...]:
    where = f"{type(module).__name__}.forward()"
    with torch.inference_mode(), _their_code(where):
        result = module.eval()(*(torch.zeros(shape) for shape in shapes.values()))
    if isinstance(result, torch.Tensor):
        return ("output",)
    if isinstance(result, (tuple, list)) and all(isinstance(r, torch.Tensor) for r in result):
        return tuple(f"output_{i}" for i in range(len(result)))
    raise Unsupported(
        f"returns {type(result).__name__}", where=where, hint="return a tensor or a tuple of tensors (wrap the module)"
    )
