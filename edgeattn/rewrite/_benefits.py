"""What each rule is worth on each engine: measured on its workload, kept in ``benefits.json``.

Listing and explaining rules must not time anything, so the figures are stored; ``make benefits`` measures them. An
entry belongs to one pair of graphs, before and after the rule: where either changes, a test asks for a new measurement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.files import read_regular

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program
    from edgeattn.rewrite._rule import Rule

FILE = Path(__file__).with_name("benefits.json")
_SMALL = 64  # integer constants up to this many elements are axes, shapes and indices: they decide what is computed


@dataclass(frozen=True)
class Benefit:
    """A rule's workload before and after it, timed in the same rounds on one engine.

    Attributes:
        engine: ``onnxruntime``. version: of the engine.
        speedup: median of before / after, above 1 is faster. ci95: its 95 % interval. None where nothing was timed.
        before_ms, after_ms: medians of one inference, or of a whole sequence.
        verdict: ``pass`` when the measurement settled, ``inconclusive``, or ``refused`` by the engine.
        why: of a verdict that is not ``pass``.
        rounds, threads: how it was measured. cpu: where. day: when, ``2026-01-31``.
    """

    engine: str
    version: str
    speedup: float | None
    ci95: tuple[float | None, float | None]
    before_ms: float | None
    after_ms: float | None
    verdict: str
    why: str
    rounds: int
    threads: int
    cpu: str
    day: str

    def __str__(self) -> str:
        """``1.37x (1.35 to 1.39)``, ``no difference``, ``not settled``."""
        low, high = self.ci95
        if self.speedup is None or low is None or high is None:
            return self.verdict
        if self.verdict != "pass":
            return f"not settled ({low:.2f} to {high:.2f})"
        if low <= 1 <= high or abs(self.speedup - 1) < 0.005:
            return "no difference"
        return f"{self.speedup:.2f}x ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class Entry:
    """What is known of one rule.

    Attributes:
        graphs: digest of its workload before and after. fired: how often it fired there.
        nodes: before and after. realistic: whether it is a workload of its own, not the rule's smallest example.
        engines: engine -> benefit.
    """

    graphs: str
    fired: int
    nodes: tuple[int, int]
    realistic: bool
    engines: Mapping[str, Benefit]


def known() -> dict[str, Entry]:
    """The stored entries by rule."""
    stored = json.loads(read_regular(FILE, 1 << 20)) if FILE.exists() else {}
    return {rule: _entry(value) for rule, value in stored.items()}


def _entry(value: Mapping[str, Any]) -> Entry:
    engines = {
        name: Benefit(**{**found, "engine": name, "ci95": tuple(found["ci95"])})
        for name, found in value["engines"].items()
    }
    return Entry(value["graphs"], value["fired"], tuple(value["nodes"]), value["realistic"], engines)


def workload(rule: Rule) -> tuple[Program, Program, int]:
    """A rule's workload before and after it, and how often it fired."""
    from edgeattn.rewrite import _apply

    source = rule.workload()
    outcome = _apply.apply(rule, source)
    return source, outcome.program, outcome.count


def digest(before: Program, after: Program) -> str:
    """What the figures depend on: operators, attributes, types, sizes and wiring; not names, not weights."""
    sha = hashlib.sha256()
    for program in (before, after):
        for name in sorted(program.graphs):
            for line in _lines(program.graphs[name].graph):
                sha.update(f"{name}: {line}\n".encode())
        sha.update(f"{program.wiring and sorted(program.wiring.feeds)}".encode())
    return sha.hexdigest()[:16]


def _lines(graph: onnx.GraphProto) -> Iterator[str]:
    """A graph as text, its values numbered in the order in which they appear."""
    numbers: dict[str, int] = {}

    def number(names: Any) -> list[int]:
        return [numbers.setdefault(name, len(numbers)) if name else -1 for name in names]

    for value in graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value or d.dim_param for d in tensor.shape.dim]
        yield f"input {number([value.name])} {tensor.elem_type} {shape}"
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        read = [_constant(constants[name]) if name in constants else "" for name in node.input]
        attributes = [f"{a.name}={_attribute(a)}" for a in sorted(node.attribute, key=lambda a: a.name)]
        yield f"{node.op_type} {attributes} {number(node.input)} {read} -> {number(node.output)}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _lines(attribute.g)
    yield f"output {number(v.name for v in graph.output)}"


def _constant(tensor: onnx.TensorProto) -> str:
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    values = array.ravel().tolist() if array.dtype.kind in "iub" and array.size <= _SMALL else ""
    return f"{array.dtype}{list(array.shape)}{values}"


def _attribute(attribute: onnx.AttributeProto) -> str:
    import onnx

    if attribute.type == onnx.AttributeProto.GRAPH:
        return "graph"
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _constant(attribute.t)
    return str(onnx.helper.get_attribute_value(attribute))
