"""How large the values of a float graph get, and what rounding them would lose: measured inside the graph.

Nodes that measure are added behind every value and only their scalars leave the graph, so memory stays that of the
graph, whatever the samples weigh. Infinities count as they are (every float type has them); NaN measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgeattn import decode
from edgeattn.program import Case, Opener, Program, Session, TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

_FAINT = 1e-3
"""A case in which a value is this much weaker than it usually is says nothing of what it must resolve."""


@dataclass
class Seen:
    """One value over all runs: ``(elements, Σx², Σ(x − rounded x)²)`` of each run, and its largest finite |x|."""

    peak: float = 0.0
    runs: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def size(self) -> float:
        """Elements in the largest run."""
        return max((n for n, _, _ in self.runs), default=0.0)

    @property
    def loss(self) -> float:
        """‖x − rounded x‖ / ‖x‖ of the run that loses most, runs without much signal apart."""
        levels = sorted(power / n for n, power, _ in self.runs if n and power > 0)
        usual = levels[len(levels) // 2] if levels else 0.0
        told = [e / p for n, p, e in self.runs if p > 0 and p / n >= _FAINT**2 * usual and math.isfinite(e)]
        return math.sqrt(max(told, default=0.0))


class _Meter:
    """A session with measuring nodes; their scalars are noted and hidden."""

    def __init__(self, session: Session, values: Iterable[str], own: set[str], seen: dict[str, Seen]) -> None:
        self._session, self._seen, self._values = session, seen, tuple(values)
        self.inputs = session.inputs
        self.outputs: tuple[TensorSpec, ...] = tuple(s for s in session.outputs if s.name in own)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        found = self._session.run(feeds)
        for name in self._values:
            peak, power, lost, size = (float(found[f"{name}{mark}"]) for mark in _MARKS)
            if not math.isnan(peak + power):
                seen = self._seen.setdefault(name, Seen())
                seen.peak = max(seen.peak, peak)
                seen.runs.append((size, power, lost))
        return {spec.name: found[spec.name] for spec in self.outputs}


def measure(
    program: Program,
    values: Mapping[str, Iterable[str]],
    element: int,
    opener: Opener,
    cases: Iterable[Case],
) -> dict[str, dict[str, Seen]]:
    """Run cases and measure values.

    Args:
        program: in float32.
        values: graph -> names of float32 values.
        element: the type whose rounding is tried, a ``TensorProto.DataType``.
        opener: opens the metered program. cases: what to run.

    Returns:
        graph -> value -> what was seen.
    """
    wanted = {graph: list(dict.fromkeys(names)) for graph, names in values.items()}
    metered = replace(program, graphs={g: _metered(m, wanted[g], element) for g, m in program.graphs.items()})
    own = {graph: {v.name for v in model.graph.output} for graph, model in program.graphs.items()}
    seen: dict[str, dict[str, Seen]] = {graph: {} for graph in program.graphs}
    sessions = {g: _Meter(s, wanted[g], own[g], seen[g]) for g, s in opener(metered).items()}
    for case in cases:
        decode.run(sessions, program.wiring, case.feeds, case.tokens)
    return seen


_MARKS = ("@peak", "@power", "@lost", "@count")  # no exporter writes such names
_ZERO, _SCALAR = "edgeattn_zero", "edgeattn_zero_scalar"


def _metered(model: onnx.ModelProto, values: Iterable[str], element: int) -> onnx.ModelProto:
    """A copy of the graph that also gives, of every value, its largest |x|, Σx², Σ(x − rounded x)² and its size."""
    from onnx import ModelProto, TensorProto, helper

    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for zero, dims in ((_ZERO, [1, 1]), (_SCALAR, [])):
        graph.initializer.append(helper.make_tensor(zero, TensorProto.FLOAT, dims, [0.0]))
    for name in values:
        graph.node.extend(_meters(name, element))
        kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
        graph.output.extend(
            helper.make_tensor_value_info(f"{name}{mark}", kind, []) for mark, kind in zip(_MARKS, kinds, strict=True)
        )
    return result


def _meters(name: str, element: int) -> Iterator[onnx.NodeProto]:
    from onnx import TensorProto, helper

    def node(kind: str, inputs: list[str], mark: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{name}{mark}"], name=f"{name}{mark}_meter", **attributes)

    finite = f"{name}@finite"
    yield node("IsInf", [name], "@infinite")
    yield node("Where", [f"{name}@infinite", _SCALAR, name], "@seen")
    yield node("Flatten", [f"{name}@seen"], "@flat", axis=0)
    yield node("Concat", [f"{name}@flat", _ZERO], "@finite", axis=1)  # an empty value has no largest element
    yield node("Abs", [finite], "@magnitude")
    yield node("ReduceMax", [f"{name}@magnitude"], "@peak", keepdims=0)
    yield node("ReduceSumSquare", [finite], "@power", keepdims=0)
    yield node("Cast", [finite], "@narrow", to=element)
    yield node("Cast", [f"{name}@narrow"], "@back", to=TensorProto.FLOAT)
    yield node("Sub", [finite, f"{name}@back"], "@error")
    yield node("ReduceSumSquare", [f"{name}@error"], "@lost", keepdims=0)
    yield node("Size", [name], "@count")
