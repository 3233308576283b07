"""lower_recurrent_cell: an LSTM or GRU that runs for one step becomes its Gemm and its gates.

What: an LSTM over a sequence of length 1 becomes one Gemm of [x; h] with [W | R], a Split, and the gates as pointwise
operators. A GRU becomes a Gemm of x and one of h, since its candidate must see them apart.

Why: a decoder calls a recurrent operator once per step. Spelled out, its products can be quantized with standard
operators, TensorRT builds no loop around it, and the embedding can be folded into it. On CPU engines the operator's own
code may be as good: there the rule stays only where it was measured to be faster.

Before: LSTM(x, W, R, B, , h, c)                 one step
After: i, o, f, c̃ = Split(Gemm([x; h], [W | R], B)); c′ = σ(f)·c + σ(i)·tanh(c̃); h′ = σ(o)·tanh(c′)

    x ─┐                                        ┌ i o f ─ σ ─┐
       Concat ─ Gemm [W|R] ─ Split ─────────────┤            Mul, Add, Tanh ─ h′, c′
    h ─┘                                        └ c̃ ─ tanh ──┘

Safe when: the sequence is proven to have length 1; weights and biases are constant; one direction, forward; default
activations; no clip, no peepholes, no coupled input gate, no sequence lengths, layout 0. The order of sums changes.
Source: ONNX operators LSTM and GRU, their equations; Hochreiter and Schmidhuber 1997; Cho et al. 2014.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite import _axes
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr, const, dims

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
DEFAULTS = {"direction": "forward", "clip": 0.0, "input_forget": 0, "layout": 0}
Arrays = dict[str, np.ndarray[Any, Any]]


class LowerRecurrentCell(GraphRule):
    """One step of an LSTM or GRU, spelled out."""

    name = "lower_recurrent_cell"
    exactness = ALLCLOSE
    anchors = ("LSTM", "GRU")
    measured = True

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the recurrent operator."""
        shape = dims(node.inputs[0])
        if shape is None or len(shape) != 3 or shape[0] != 1:
            return miss(f"its sequence is not proven to have length 1: {shape}", node, 1)
        for name, default in DEFAULTS.items():
            found = attr(node, name, default)
            if found != default:
                return miss(f"its {name} is {found}, not {default}", node, 2)
        activations = attr(node, "activations", ACTIVATIONS[node.op_type])
        plain = [a.lower() for a in activations] == [a.lower() for a in ACTIVATIONS[node.op_type]]
        if not plain or attr(node, "activation_alpha") or attr(node, "activation_beta"):
            return miss(f"its activations are {', '.join(activations)}, not the default", node, 2)
        operands = {name: _operand(node, place) for place, name in enumerate("XWRBShcP")}
        if operands["S"] is not None or operands["P"] is not None:
            extra = "sequence lengths" if operands["S"] is not None else "peepholes"
            return miss(f"it has {extra}", node, 2)
        arrays = {name: const(operands[name]) for name in "WR"} | {"B": const(operands["B"])}
        if arrays["W"] is None or arrays["R"] is None or (operands["B"] is not None and arrays["B"] is None):
            return miss("its weights are fed", node, 3)
        return Match(node, (node,), {"operands": operands, "arrays": arrays, "opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """The cell's equations, then the shapes that the operator's outputs have."""
        node, opset, operands = match.anchor, match.parts["opset"], match.parts["operands"]
        x = _axes.squeeze(build, operands["X"], [0], opset)
        h, c = (v if v is None else _axes.squeeze(build, v, [0], opset) for v in (operands["h"], operands["c"]))
        arrays = _matrices(match.parts["arrays"])
        reset = bool(attr(node, "linear_before_reset", 0))
        states = _lstm(build, arrays, x, h, c, opset) if node.op_type == "LSTM" else (
            _gru(build, arrays, x, h, reset, opset),
        )  # fmt: skip
        for old, state, axes in zip(node.outputs, (states[0], *states), ([0, 1], [0], [0]), strict=False):
            if old.uses() or old.is_graph_output():
                build.replace(old, _axes.unsqueeze(build, state, axes, opset))

    def examples(self) -> list[Program]:
        """LSTM with and without a state; GRU in both forms; every output read; an older opset."""
        return as_programs(
            _cell("LSTM", 4, "x, w, r, b, , h, c", "y, y_h, y_c"),
            _cell("LSTM", 4, "x, w, r", ", y_h", opset=11),
            _cell("GRU", 3, "x, w, r, b, , h", ", y_h", ", linear_before_reset = 1"),
            _cell("GRU", 3, "x, w, r, b, , h", "y, y_h"),
            _cell("GRU", 3, "x, w, r, b", "y"),
            _cell("GRU", 3, "x, w, r, b", "y", ", linear_before_reset = 1", opset=13),
        )

    def near_misses(self) -> list[Program]:
        """Two steps; any number of them; sequence lengths; backwards; clipped; other activations; peepholes."""
        plain = "x, w, r, b, , h, c"
        odd = ', activations = ["HardSigmoid", "Tanh", "Tanh"]'
        return as_programs(
            _cell("LSTM", 4, plain, "y", steps="2"),
            _cell("LSTM", 4, plain, "y", steps="s"),
            _cell("LSTM", 4, "x, w, r, b, lengths", "y", lengths=np.array([1, 1], np.int32), batch="2"),
            _cell("LSTM", 4, plain, "y", ', direction = "reverse"'),
            _cell("LSTM", 4, plain, "y", ", clip = 1.0"),
            _cell("LSTM", 4, plain, "y", odd),
            _cell("LSTM", 4, f"{plain}, p", "y", p=(1, 9)),
        )

    def workload(self) -> Program:
        """A decoder's LSTM of width 512 at batch 1."""
        return as_programs(_cell("LSTM", 4, "x, w, r, b, , h, c", "y, y_h, y_c", width=512, batch="1"))[0]


def _operand(node: ir.Node, place: int) -> ir.Value | None:
    """An input by place; a GRU has neither the cell state nor peepholes."""
    return node.inputs[place] if place < len(node.inputs) else None


def _matrices(arrays: dict[str, np.ndarray[Any, Any] | None]) -> Arrays:
    """Weights of the one direction; both halves of the bias, zeros where there is none."""
    w, r, b = arrays["W"], arrays["R"], arrays["B"]
    assert w is not None and r is not None  # noqa: PT018 (match has seen them)
    halves = np.zeros((2, w.shape[1]), w.dtype) if b is None else b[0].reshape(2, -1)
    return {"W": w[0], "R": r[0], "Wb": halves[0], "Rb": halves[1]}


def _gemm(build: Build, name: str, value: ir.Value, weight: Any, bias: Any) -> ir.Value:
    shape = (*(dims(value) or (None,))[:1], len(weight))
    operands = [build.const(f"{name}_weight", weight), build.const(f"{name}_bias", bias)]
    return build.op("Gemm", value, *operands, shape=shape, transB=1)


def _lstm(
    build: Build, p: Arrays, x: ir.Value, h: ir.Value | None, c: ir.Value | None, opset: int
) -> tuple[ir.Value, ir.Value]:
    """The next h and c, each ``(B, D)``; gates lie in the order input, output, forget, cell."""
    width = p["R"].shape[1]
    shape = (*(dims(x) or (None,))[:1], width)
    joined, weight = x, p["W"]
    if h is not None:
        weight = np.concatenate((p["W"], p["R"]), 1)
        joined = build.op("Concat", x, h, shape=(shape[0], weight.shape[1]), axis=1)
    made = _gemm(build, "cell", joined, weight, p["Wb"] + p["Rb"])
    raw, candidate = _axes.split(build, made, [3 * width, width], 1, opset)
    gates = build.op("Sigmoid", raw, shape=dims(raw))
    read, write, keep = _axes.split(build, gates, [width] * 3, 1, opset)
    cell = build.op("Mul", read, build.op("Tanh", candidate, shape=shape), shape=shape)
    if c is not None:
        cell = build.op("Add", build.op("Mul", keep, c, shape=shape), cell, shape=shape)
    return build.op("Mul", write, build.op("Tanh", cell, shape=shape), shape=shape), cell


def _gru(build: Build, p: Arrays, x: ir.Value, h: ir.Value | None, reset_last: bool, opset: int) -> ir.Value:
    """The next h ``(B, D)``; gates lie in the order update, reset, candidate."""
    width = p["R"].shape[1]
    shape = (*(dims(x) or (None,))[:1], width)
    from_x = _gemm(build, "cell_x", x, p["W"], p["Wb"])
    raw, candidate = _axes.split(build, from_x, [2 * width, width], 1, opset)
    if h is None:  # the state is zero: what the reset gate multiplies is the recurrent bias alone
        raw = build.op("Add", raw, build.const("cell_h_gates", p["Rb"][: 2 * width]), shape=dims(raw))
        recurrent = build.const("cell_h_candidate", p["Rb"][2 * width :])
    else:
        rows = slice(None) if reset_last else slice(2 * width)
        from_h = _gemm(build, "cell_h", h, p["R"][rows], p["Rb"][rows])
        ours, recurrent = _axes.split(build, from_h, [2 * width, width], 1, opset) if reset_last else (from_h, from_h)
        raw = build.op("Add", raw, ours, shape=dims(raw))
    update, reset = _axes.split(build, build.op("Sigmoid", raw, shape=dims(raw)), [width] * 2, 1, opset)
    if reset_last:
        recurrent = build.op("Mul", reset, recurrent, shape=shape)
    elif h is not None:
        state = build.op("Mul", reset, h, shape=shape)
        recurrent = _gemm(build, "cell_h_candidate", state, p["R"][2 * width :], p["Rb"][2 * width :])
    new = build.op("Tanh", build.op("Add", candidate, recurrent, shape=shape), shape=shape)
    change = build.op("Sub", new, build.op("Mul", update, new, shape=shape), shape=shape)  # (1 - z) n
    return change if h is None else build.op("Add", change, build.op("Mul", update, h, shape=shape), shape=shape)


def _cell(
    op_type: str,
    gates: int,
    operands: str,
    results: str,
    extra: str = "",
    steps: str = "1",
    width: int = 3,
    batch: str = "batch",
    opset: int = 18,
    **more: Any,
) -> onnx.ModelProto:
    """One recurrent operator; the names in ``results`` are its outputs and the graph's."""
    shapes = {"y": f"[{steps},1,{batch},{width}]", "y_h": f"[1,{batch},{width}]", "y_c": f"[1,{batch},{width}]"}
    outputs = ", ".join(f"float{shapes[name.strip()]} {name}" for name in results.split(",") if name.strip())
    states = "".join(f", float[1,{batch},{width}] {s}" for s in "hc" if f" {s}" in operands.replace(",", " "))
    weights = {"w": (1, gates * width, width), "r": (1, gates * width, width), "b": (1, 2 * gates * width)}
    used: dict[str, Any] = {
        name: shape for name, shape in weights.items() if name in operands.replace(" ", "").split(",")
    }
    return graph(
        f"(float[{steps},{batch},{width}] x{states}) => ({outputs}) "
        f"{{ {results} = {op_type} <hidden_size = {width}{extra}> ({operands}) }}",
        opset=opset,
        **used,
        **more,
    )


RULE = LowerRecurrentCell()
