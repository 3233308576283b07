"""What a spelling is: a small PyTorch module, its inputs, and the attention that must be found in its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeattn.program import Program, TensorSpec

if TYPE_CHECKING:
    from torch import nn

EXPORTERS = ("dynamo", "torchscript")


@dataclass(frozen=True)
class Expected:
    """One structure that must be found: its kind, and what must be said of it, by attribute name."""

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Spelling:
    """One way to write one model.

    Attributes:
        name: unique, ``se-view-mean``.
        family: the file it stands in: ``cbam``, ``se_and_channel``, ``spatial``, ``luong``, ``bahdanau``, ``mha`` …
        build: makes the module; weights are seeded by ``export``.
        inputs: names, dtypes, and shapes with symbols for dynamic dimensions.
        expected: what must be found, in graph order; nothing for a look-alike.
        outputs: names of what ``forward`` returns.
        static: exported without dynamic dimensions, since the spelling needs its sizes.
        not_by: exporters that cannot write it.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    expected: tuple[Expected, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    static: bool = False
    not_by: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind that must be found, ``none`` for a look-alike; ``a + b`` where there are two."""
        return " + ".join(dict.fromkeys(e.kind for e in self.expected)) or "none"

    def export(self, exporter: str = "dynamo", opset: int = 18) -> Program:
        """A program of one graph, with eager PyTorch's outputs for two sizes of every dynamic dimension.

        Written once for each choice and kept on disk until the table's sources or the exporter change.

        Raises:
            Unexportable: PyTorch has no form of this spelling in that opset.
        """
        from tests.spellings._export import exported

        return exported(self, exporter, opset)


class Family:
    """Collects the spellings of one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[Spelling] = []

    def add(
        self,
        name: str,
        build: Callable[[], nn.Module],
        inputs: tuple[TensorSpec, ...],
        *expected: Expected,
        **options: Any,
    ) -> None:
        """Add one spelling."""
        self.found.append(Spelling(name, self.name, build, inputs, expected, **options))


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    """An input; dimensions by name are dynamic."""
    return TensorSpec(name, dtype, shape)
