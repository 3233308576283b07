"""Loops, branches, scans and recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from tests.benchmarks.planted._model import Graphs, Spec, Y, f32, i64, model, node


def loops() -> Graphs:
    """Loops with every kind of trip count, state and stacked output; Scan; If."""
    for trip in ("stored", "given", "none"):
        for scan in (False, True):
            for grows in (False, True):
                if not (grows and scan):
                    yield f"loop/trip-{trip}{'-scan' * scan}{'-grows' * grows}", _loop(trip, scan, grows)
    yield "loop/slice-by-step", _stepwise("Slice", "x nought up", ["up"])
    yield "loop/gather-by-step", _stepwise("Gather", "x i", [])
    for ranks in ("equal", "different"):
        for condition in ("given", "stored"):
            yield f"if/ranks-{ranks}-{condition}", _branches(ranks, condition)
    yield "scan/sum", _scan()


def _loop(trip: str, scan: bool, grows: bool) -> onnx.ModelProto:
    step = node("Concat", "h h", "h2", axis=0) if grows else node("Add", "h one", "h2")
    nodes = [step, helper.make_node("Identity", ["c"], ["c2"])]
    outs = [
        helper.make_tensor_value_info("c2", T.BOOL, ()),
        helper.make_tensor_value_info("h2", T.FLOAT, None if grows else (2,)),
    ]
    if scan:
        nodes.append(helper.make_node("Mul", ["h2", "h2"], ["stacked"]))
        outs.append(helper.make_tensor_value_info("stacked", T.FLOAT, (2,)))
    ins = [
        helper.make_tensor_value_info("i", T.INT64, ()),
        helper.make_tensor_value_info("c", T.BOOL, ()),
        helper.make_tensor_value_info("h", T.FLOAT, None if grows else (2,)),
    ]
    body = helper.make_graph(nodes, "body", ins, outs)
    loop = node("Loop", f"{'-' if trip == 'none' else 'n'} go x", "y all" if scan else "y", body=body)
    given: list[Spec] = [("x", T.FLOAT, (2,))] + ([("n", T.INT64, ())] if trip == "given" else [])
    given += [("go", T.BOOL, ())] if trip == "none" else []
    stored: dict[str, Any] = {"one": np.ones(2, np.float32)}
    stored |= {"n": np.int64(4)} if trip == "stored" else {}
    stored |= {} if trip == "none" else {"go": np.bool_(True)}
    return model([loop], given, [Y, *([("all", T.FLOAT, None)] if scan else [])], stored)


def _stepwise(op: str, inputs: str, ends: Sequence[str]) -> onnx.ModelProto:
    """A Loop that reads a part of ``x`` which the step chooses, and adds it up."""
    nodes = [node("Add", "i unit", "next"), node("Reshape", "next minus", "up")] if ends else []
    nodes += [node(op, inputs, "part"), node("ReduceSum", "part none", "sum", keepdims=0), node("Add", "h sum", "h2")]
    nodes += [node("Identity", "c", "c2")]
    ins = [("i", T.INT64, ()), ("c", T.BOOL, ()), ("h", T.FLOAT, ())]
    outs = [("c2", T.BOOL, ()), ("h2", T.FLOAT, ())]
    infos = [[helper.make_tensor_value_info(*spec) for spec in specs] for specs in (ins, outs)]
    body = helper.make_graph(nodes, "body", *infos)
    stored = {"unit": np.int64(1), "minus": i64(-1), "nought": i64(0), "none": i64(0), "n": np.int64(4)}
    stored |= {"go": np.bool_(True), "zero": np.float32(0)}
    used = {name for n in nodes for name in n.input} | {"n", "go", "zero"}
    stored = {k: v for k, v in stored.items() if k in used}
    if not ends:
        nodes[1].input[:] = ["part"]
        body = helper.make_graph(nodes, "body", *infos)
        stored.pop("none", None)
    return model([node("Loop", "n go zero", body=body)], [("x", T.FLOAT, (5,))], [Y], stored)


def _branches(ranks: str, condition: str) -> onnx.ModelProto:
    yes = helper.make_graph([node("Relu", "x", "a")], "yes", [], [helper.make_tensor_value_info("a", T.FLOAT, (2, 3))])
    op = node("Neg", "x", "b") if ranks == "equal" else node("ReduceSum", "x ax", "b", keepdims=0)
    shape = (2, 3) if ranks == "equal" else (2,)
    no = helper.make_graph([op], "no", [], [helper.make_tensor_value_info("b", T.FLOAT, shape)])
    given: list[Spec] = [("x", T.FLOAT, (2, 3))] + ([("c", T.BOOL, ())] if condition == "given" else [])
    stored: dict[str, Any] = {"ax": i64(1)} | ({"c": np.bool_(True)} if condition == "stored" else {})
    return model([node("If", "c", then_branch=yes, else_branch=no)], given, [Y], stored)


def _scan() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, T.FLOAT, (3,)) for n in ("h", "v", "h2", "o")]
    nodes = [helper.make_node("Add", ["h", "v"], ["h2"]), helper.make_node("Identity", ["h2"], ["o"])]
    body = helper.make_graph(nodes, "body", values[:2], values[2:])
    given: list[Spec] = [("h0", T.FLOAT, (3,)), ("x", T.FLOAT, (5, 3))]
    return model([node("Scan", "h0 x", "last y", num_scan_inputs=1, body=body)], given, [("last", T.FLOAT, None), Y])


def recurrent() -> Graphs:
    """LSTM, GRU and RNN in the forms that their definition allows."""
    for op in ("LSTM", "GRU", "RNN"):
        for direction in ("forward", "reverse", "bidirectional"):
            yield f"{op}/{direction}", _recurrent(op, direction=direction)
        yield f"{op}/bias", _recurrent(op, "x w r b")
        yield f"{op}/lengths", _recurrent(op, "x w r - l")
        yield f"{op}/layout-1", _recurrent(op, layout=1)
        yield f"{op}/clip", _recurrent(op, clip=1.0)
    yield "GRU/linear-before-reset", _recurrent("GRU", linear_before_reset=1)
    yield "LSTM/input-forget", _recurrent("LSTM", input_forget=1)
    mixed = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"]
    yield "LSTM/mixed-activations", _recurrent("LSTM", direction="bidirectional", activations=mixed)


def _recurrent(op: str, inputs: str = "x w r", **attributes: Any) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 4
    n = 2 if attributes.get("direction") == "bidirectional" else 1
    stored = {"w": f32(n, gates, 3), "r": f32(n, gates, 4), "b": f32(n, 2 * gates)}
    given: list[Spec] = [("x", T.FLOAT, (2, 5, 3) if attributes.get("layout") else (5, 2, 3))]
    given += [("l", T.INT32, (2,))] if "l" in inputs.split() else []
    used = {k: v for k, v in stored.items() if k in inputs.split()}
    return model([node(op, inputs, hidden_size=4, **attributes)], given, [Y], used)
