"""What a check hands back, and what an engine's version can do: small frozen values with their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """Something in a graph that a target would not take.

    Attributes:
        check: the check that found it, a file of this folder. graph: graph name.
        node: its name (its first output's, if it has none); empty where the whole graph is meant.
        reason: what is wrong, in one clause. hint: the rewrite, flag or command that mends it.
        mend: what ``edgeattn doctor --fix`` does about it: ``rewrite:RULE``, ``expand:OPERATOR``, ``scheme:fp16``,
            ``opset:17``, ``shapes``, ``names``; empty where nothing here mends it.
        source: where that is known from: a page, a changelog, or ``measured with`` a version.
        module: the PyTorch module that the node came from, where the exporter wrote it down.
    """

    check: str
    graph: str
    node: str
    reason: str
    hint: str
    mend: str = ""
    source: str = ""
    module: str = ""

    @property
    def where(self) -> str:
        """The node in the user's words: its module first, where it is known."""
        return f"{self.module} ({self.node})" if self.module else self.node


@dataclass(frozen=True)
class Fact(Generic[T]):
    """Something known of an engine, and where from."""

    value: T
    source: str


@dataclass(frozen=True)
class Engine:
    """What one version of one engine can do: a row of the table.

    Attributes:
        family: ``tensorrt``, ``tensorrt-rtx``, ``openvino`` or ``onnxruntime``; ``device`` where it matters.
        version: the engine's; for what was measured, the version it was measured with.
        opsets: least and newest opset of the standard domain.
        operators: the standard operators that it takes.
        types: element types that operators compute in. carried: further ones that may pass between some operators.
        typing: ``weak`` (precision by flags), ``optional``, ``strong`` (precision lives in the graph alone).
        constants: operator -> inputs that must be stored in the file, by their place.
        folded: those of them for which arithmetic on stored values will do.
        direct: those of them that take a stored value as it lies there, not behind an Identity.
        quantized: the types that a DequantizeLinear unpacks. zero_points: whether they may differ from 0.
        static: every dimension of every input must be a number.
        int64: ``native``, or ``clamped`` to INT32.
        missing: compute capability -> what its arithmetic lacks.
        window: most elements of a pooling window; 0 where no limit is known.
        ir: newest version of the file format; 0 where no limit is known.
        refused_versions: operator -> opsets of definitions of it that no graph was taken with.
        refused_types: operator -> ``input>output`` types that it was asked for and refused. taken_types: and took.
        computes: device -> precisions that it can be asked for, where others would silently become one of these.
        unknown: what neither a document nor asking an engine told, a line each.
    """

    family: str
    version: str
    opsets: Fact[tuple[int, int]]
    operators: Fact[frozenset[str]]
    types: Fact[frozenset[str]]
    carried: Fact[frozenset[str]]
    typing: Fact[str]
    constants: Fact[Mapping[str, tuple[int, ...]]]
    quantized: Fact[frozenset[str]]
    zero_points: Fact[bool]
    device: str = ""
    direct: Fact[frozenset[str]] = Fact(frozenset(), "")
    folded: Fact[frozenset[str]] = Fact(frozenset(), "")
    static: Fact[bool] = Fact(False, "")
    int64: Fact[str] = Fact("native", "")
    missing: Fact[Mapping[str, frozenset[str]]] = field(default_factory=lambda: Fact({}, ""))
    window: Fact[int] = Fact(0, "")
    ir: Fact[int] = Fact(0, "")
    refused_versions: Fact[Mapping[str, Sequence[int]]] = field(default_factory=lambda: Fact({}, ""))
    refused_types: Fact[Mapping[str, Sequence[str]]] = field(default_factory=lambda: Fact({}, ""))
    taken_types: Fact[Mapping[str, Sequence[str]]] = field(default_factory=lambda: Fact({}, ""))
    computes: Fact[Mapping[str, Sequence[str]]] = field(default_factory=lambda: Fact({}, ""))
    unknown: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """``TensorRT 10.3``, as reasons say it."""
        names = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX", "openvino": "OpenVINO"}
        return f"{names.get(self.family, 'ONNX Runtime')} {self.device.upper() or self.version}".rstrip()

    @property
    def nvidia(self) -> bool:
        """Whether TensorRT's parser reads the graph."""
        return self.family.startswith("tensorrt")


@dataclass(frozen=True)
class Target:
    """What a user names: an engine's version, and compute capabilities where it builds for some.

    Attributes:
        text: as the user wrote it. engine: the row of the table. capabilities: ``("sm89",)``.
    """

    text: str
    engine: Engine
    capabilities: tuple[str, ...] = ()

    @property
    def quantizing(self) -> str:
        """How a float model is quantized for it; that differs by engine, not by version."""
        return f"edgeattn quantize --scheme int8-static -t {self.text.partition(':')[0]}"


@dataclass(frozen=True)
class Found:
    """A Finding before the frame adds the graph, the check, and the module."""

    node: str
    reason: str
    hint: str
    mend: str = ""
    source: str = ""
    module: str = ""


def numbers(version: str) -> tuple[int, ...]:
    """``10.16.2`` -> ``(10, 16, 2)``."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
