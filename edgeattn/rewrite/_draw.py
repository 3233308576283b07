"""A small program as text: each line is a chain of operators, from the values it reads to the value it makes.

x → GlobalAveragePool → Conv(w1[4,64,1,1], b1[4]) → Relu → gate
x, gate → Mul → y
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program

ARROW = " → "
_WIDTH = 40  # characters of a constant or attribute; the rest is left out


def draw(program: Program) -> str:
    """Every graph of a program, and how they feed each other."""
    if program.wiring is None and len(program.graphs) == 1:
        (model,) = program.graphs.values()
        return "\n".join(lines(model.graph))
    parts = []
    for name, model in program.graphs.items():
        parts += [f"{name}:", *(f"  {line}" for line in lines(model.graph))]
    if program.wiring is not None:
        once = [f"  {source}{ARROW}{to}" for to, source in program.wiring.feeds.items()]
        loop = [f"  {source}{ARROW}{to}" for to, source in program.wiring.state.items()]
        parts += ["once:", *once] if once else []
        parts += ["every step:", *loop] if loop else []
    return "\n".join(parts)


def lines(graph: onnx.GraphProto, around: Mapping[str, Any] | None = None) -> list[str]:
    """The chains of one graph in the order in which they begin; ``around`` holds the constants of graphs around it."""
    return _Drawing(graph, around or {}).lines()


class _Drawing:
    """Which values are constants, who reads what, and what values are called."""

    def __init__(self, graph: onnx.GraphProto, around: Mapping[str, Any]) -> None:
        self.constants: dict[str, Any] = {**around, **{t.name: t for t in graph.initializer}}
        self.constants |= {n.output[0]: n.attribute[0] for n in graph.node if n.op_type == "Constant"}
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.outputs = [value.name for value in graph.output]
        self.readers = Counter(name for node in self.nodes for name in self.moving(node))
        known = {*(v.name for v in graph.input), *self.outputs}
        long = [o for n in self.nodes for o in n.output if o not in known and not o.replace("_", "").isalnum()]
        taken = known | {o for n in self.nodes for o in n.output}
        fresh = (name for number in range(1, len(long) + len(taken) + 2) if (name := f"t{number}") not in taken)
        self.short: dict[str, str] = dict(zip(long, fresh, strict=False))

    def moving(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of a node that are no constants, each once."""
        return list(dict.fromkeys(name for name in node.input if name and name not in self.constants))

    def lines(self) -> list[str]:
        chains: list[list[onnx.NodeProto]] = []
        ends: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            read = self.moving(node)
            chain = ends.pop(read[0], None) if len(read) == 1 else None
            if chain is None:
                chain = []
                chains.append(chain)
            chain.append(node)
            (out, *more) = [name for name in node.output if name] or [""]
            if not more and self.readers[out] == 1 and out not in self.outputs:
                ends[out] = chain
        return [line for chain in chains for line in (self._line(chain), *self._bodies(chain))]

    def _line(self, chain: list[onnx.NodeProto]) -> str:
        read = [self._name(name) for name in self.moving(chain[0])]
        made = [self._name(name) for name in chain[-1].output if name]
        steps = [", ".join(read), *(self._label(node) for node in chain), ", ".join(made)]
        return ARROW.join(step for step in steps if step)

    def _bodies(self, chain: Sequence[onnx.NodeProto]) -> Iterator[str]:
        """The graphs inside Loop, Scan and If, below the line they belong to."""
        for node in chain:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield f"  {attribute.name} of {node.op_type}:"
                    yield from (f"    {line}" for line in lines(attribute.g, self.constants))

    def _name(self, value: str) -> str:
        return self.short.get(value, value)

    def _label(self, node: onnx.NodeProto) -> str:
        inside = [self._constant(name) for name in node.input if name in self.constants]
        inside += [
            f"{a.name}={_shortened(_attribute(a))}"
            for a in node.attribute
            if not a.HasField("g") and not _is_default(node, a)
        ]
        return f"{node.op_type}({', '.join(inside)})" if inside else str(node.op_type)

    def _constant(self, name: str) -> str:
        array = _array(self.constants[name])
        if array is None:
            return self._name(name)
        if array.ndim == 0 or (array.size <= 4 and (array.dtype.kind in "iub" or array.size == 1)):
            return _shortened(str(array.tolist()) if array.dtype.kind != "f" else _numbers(array))
        return f"{name if '/' not in name and len(name) < 16 else ''}[{','.join(map(str, array.shape))}]"


def _numbers(array: np.ndarray[Any, Any]) -> str:
    numbers = [f"{float(x):.4g}" for x in array.ravel()]
    return numbers[0] if array.ndim == 0 else f"[{', '.join(numbers)}]"


def _array(found: Any) -> np.ndarray[Any, Any] | None:
    """The array behind an initializer or a Constant's attribute; None for text."""
    import onnx

    if isinstance(found, onnx.AttributeProto):
        value = onnx.helper.get_attribute_value(found)
        if found.name not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
            return None
        return onnx.numpy_helper.to_array(value) if found.name == "value" else np.asarray(value)
    return onnx.numpy_helper.to_array(found)


def _attribute(attribute: onnx.AttributeProto) -> str:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _numbers(onnx.numpy_helper.to_array(value))
    if isinstance(value, bytes):
        return str(value, errors="replace")
    return f"{value:.4g}" if isinstance(value, float) else str(list(value) if isinstance(value, list) else value)


def _is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Whether the operator would do the same without it."""
    import onnx

    try:
        default = onnx.defs.get_schema(node.op_type).attributes[attribute.name].default_value
    except (KeyError, onnx.defs.SchemaError):
        return False
    return bool(default.type) and onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(attribute)


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
