"""Reference models: one family, one file, one ``MODEL`` with its named configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeattn import registry
from edgeattn.errors import UnknownName
from edgeattn.program import TensorSpec, Wiring

if TYPE_CHECKING:
    from torch import nn

    from edgeattn.program import Case


@dataclass(frozen=True)
class GraphSource:
    """One PyTorch module that becomes one ONNX graph.

    Attributes:
        module: called with the inputs positionally, in order; returns a tensor or a tuple of tensors.
        inputs: names, dtypes and shapes; a name in a shape is a dynamic dimension.
        outputs: output names, in the order the module returns them.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A PyTorch program ready to export.

    Attributes:
        graphs: graph name -> source; several graphs need ``wiring``.
        wiring: how the graphs feed each other.
        cases: ``cases(seed) -> list[Case]`` with feeds (and tokens) only; None lets export draw them from the specs.
    """

    graphs: Mapping[str, GraphSource]
    wiring: Wiring | None = None
    cases: Callable[[int], Sequence[Case]] | None = None


def check(source: Source, where: str) -> None:
    """Hold a Source that a user built against itself; see :mod:`edgeattn.models._check`.

    Raises:
        BadInput: a graph that is none, inputs that its forward() does not take, or wiring to a name that is not there.
    """
    from edgeattn.models import _check

    _check.check(source, where)


@dataclass(frozen=True)
class Config:
    """A named configuration of a family.

    Attributes:
        options: constructor options.
        weights: shipped checkpoint, None for an untrained configuration (for latency, size and parity).
        task: the task it was trained on.
        training: what its training changes of ``edgeattn/training/<task>.py``'s defaults.
        about: one line for ``edgeattn list models``.
    """

    options: Mapping[str, Any]
    weights: str | None = None
    task: str | None = None
    about: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A reference model family.

    Attributes:
        name: the file stem.
        build: ``build(**options) -> nn.Module``.
        source: ``source(module) -> Source``.
        configs: configuration name -> Config; these names are what users type.
        paper: paper and section the family follows.
    """

    name: str
    build: Callable[..., nn.Module]
    source: Callable[[Any], Source]
    configs: Mapping[str, Config] = field(default_factory=dict)
    paper: str = ""


def configurations() -> dict[str, tuple[Model, Config]]:
    """Every configuration of every family, by name."""
    families: list[Model] = [registry.get("models", name) for name in registry.names("models")]
    return {name: (family, config) for family in families for name, config in family.configs.items()}


def find(name: str) -> tuple[Model, Config]:
    """The family and configuration of a name such as ``cbam_resnet50``; raises UnknownName."""
    known = configurations()
    if name not in known:
        raise UnknownName("model", name, known)
    return known[name]
