"""What ONNX Runtime really executes: the graph that it optimised for itself, in words that all engines share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Executed, Options
from edgeattn.backends._common import Given, placed
from edgeattn.backends._onnxruntime_session import RUNNING, in_memory, inference_session
from edgeattn.graphs import bodies
from edgeattn.publish import scratch

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays

_INT8_OPS = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm", "MatMulIntegerToFloat"}
_INT8_OPS |= {"MatMulNBits", "DynamicQuantizeMatMul", "QLinearConvTranspose", "DynamicQuantizeLSTM"}
_FLOAT_OPS = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU", "RNN"}
_ROLES = {
    **dict.fromkeys(_INT8_OPS | _FLOAT_OPS, "product"),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), "quantize"),
    **dict.fromkeys(("Transpose", "ReorderInput", "ReorderOutput"), "layout"),
    "Cast": "convert",
}
_LABELS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16"}  # by TensorProto.DataType
# What ONNX Runtime appends to the name of a node that it fused, moved or copied.
_MARKS = re.compile(r"^InsertedPrecisionFreeCast_|(_token_\d+|/duplicated|_nchwc)+$")
_WARM_UP_RUNS = 3


def profile(model: onnx.ModelProto, options: Options, feeds: Arrays | None, runs: int) -> list[Executed]:
    """Every node in order, timed by ONNX Runtime's own profiler where there are ``feeds``."""
    import onnx

    with scratch() as folder:
        optimized = folder / "optimized.onnx"
        record = str(folder / "profile") if feeds is not None else ""
        session = inference_session(in_memory(_with_names(model)), options, str(optimized), record)
        times = _times(session, feeds, runs) if feeds is not None else {}
        graph = onnx.load(optimized, load_external_data=False).graph
    return _executed(graph, model, times)


def products(file: Path, options: Options, model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """``(node, precision)`` of every multiply-accumulate node ONNX Runtime will execute."""
    import onnx

    with scratch() as folder:
        optimized = folder / "optimized.onnx"
        inference_session(str(file), options, str(optimized))
        made = onnx.load(optimized, load_external_data=False)
    given = dict(bodies(model))
    inside = [(body.graph, given[place]) for place, body in bodies(made) if place in given]
    for graph, source in ((made.graph, model), *inside):
        for node in _executed(graph, source, {}):
            if node.role == "product":
                yield next(iter(node.stands_for), node.node), node.precision


def _executed(graph: onnx.GraphProto, model: onnx.ModelProto, times: Mapping[str, float]) -> list[Executed]:
    """The nodes of an optimised graph, in the names of the graph it was made from."""
    given, types = Given(model), _Types(graph)
    writers = {output: node.name for node in graph.node for output in node.output}
    nodes = []
    for node in graph.node:
        called = [_MARKS.sub("", name) for name in (node.name, *node.output)]
        role, known = _ROLES.get(node.op_type, "other"), given.find(called)[:1]
        added = role == "layout" and not any(given.ops[name] == node.op_type for name in known)
        nodes.append(
            Executed(
                node.name,
                node.op_type,
                role,
                "int8" if node.op_type in _INT8_OPS else types.label(node),
                node.domain,
                times.get(node.name, 0.0),
                () if added else given.product(known) if role == "product" else known,
            )
        )
    reads = {node.name: [writers[name] for name in node.input if name in writers] for node in graph.node}
    return placed(nodes, reads)


class _Types:
    """What nodes of an optimised graph compute in: ONNX Runtime saves no types of the values between them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._stored: dict[str, int] = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._stored |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._producer = {output: node for node in graph.node for output in node.output}

    def label(self, node: onnx.NodeProto) -> str:
        """The type of what a node reads first, or of its weights where that is computed by unknown operators."""
        found = [self._type(name) for name in node.input[:2]]
        return next((_LABELS[kind] for kind in found if kind in _LABELS), "fp32")

    def _type(self, name: str) -> int:
        for _ in range(len(self._producer) + 1):
            node = self._producer.get(name)
            if node is None or name in self._stored:
                return self._stored.get(name, 0)
            if node.op_type == "Cast":
                return int(node.attribute[0].i)
            if node.op_type in ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear") or not node.input:
                return 1 if node.op_type == "DequantizeLinear" else 2
            if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm"):
                return 2
            name = node.input[0]
        return 0


def _with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a name for every node, which the profiler tells its times by."""
    import onnx

    if all(node.name for node in model.graph.node):
        return model
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken = {node.name for node in named.graph.node}
    for node in named.graph.node:
        if not node.name and node.output and node.output[0] not in taken:
            node.name = node.output[0]
    return named


def _times(session: Any, feeds: Arrays, runs: int) -> dict[str, float]:
    """Milliseconds of one run by node: the mean without the slowest tenth of the runs, which others disturbed."""
    given = {value.name: feeds[value.name] for value in session.get_inputs()}
    with RUNNING:
        for _ in range(_WARM_UP_RUNS + runs):
            session.run(None, given)
    spans: dict[str, list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spans.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1000)
    kept = {name: sorted(times[_WARM_UP_RUNS:])[: math.ceil(0.9 * runs)] for name, times in spans.items()}
    return {name: sum(times) / len(times) for name, times in kept.items() if times}
