"""int8-dynamic: per-channel INT8 weights, activations quantized while the engine runs, in standard operators.

What: every wide Gemm and MatMul becomes DynamicQuantizeLinear, MatMulInteger and one Mul by both scales; layers that
read the same value share its quantization. Embeddings that are only looked up are stored as INT8 rows.
Why: no calibration, no data, no range that new data could leave. A decoder step at batch 1 costs what reading its
weights costs, and those are a quarter of the bytes.
Scales: activations (max - min of the whole tensor) / 255 with a zero point, found at each run; weights max |w| per
output channel / 127, embeddings max |w| per column / 127.
Stays float: convolutions, recurrent operators, gates, layers narrower than 16 channels, Softmax, LayerNorm, biases,
anything under ``--keep``.
Where: ONNX Runtime fuses the form into one kernel a layer, the fastest it has for a decoder step. OpenVINO runs the
operators slower than FP32, but quantizes activations by itself (32 along the depth share a scale) where a weight alone
is INT8: there that is the form. TensorRT has neither.
Source: ONNX DynamicQuantizeLinear-11 and MatMulInteger-10; the fusion is ONNX Runtime's ``MatMulIntegerToFloat``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.errors import Unsupported
from edgeattn.graphs import GraphIndex, attributes
from edgeattn.program import Case, Opener, Program
from edgeattn.quantize import Quantized, Scheme, Settings
from edgeattn.quantize._insert import refuse_nonfinite
from edgeattn.quantize._levels import quantize_weight
from edgeattn.quantize._plan import Plan, plan
from edgeattn.quantize._policy import matches

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, QdqDialect

_ROWS = 16  # a table smaller than this in either direction is not worth unpacking


class Int8Dynamic(Scheme):
    """The scheme; see the module docstring."""

    name = "int8-dynamic"
    precision = "int8"
    limits = "int8"
    calibrated = False

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """Plan every graph and spell its layers out; see :func:`edgeattn.quantize.quantize`. Looks at no data.

        Raises:
            UsageError: a keep pattern that matches nothing. BadInput: weights that are not finite.
            Unsupported: the engine cannot quantize while it runs.
        """
        if not settings.qdq.dynamic:
            raise Unsupported(
                "this engine quantizes no activations while it runs (no DynamicQuantizeLinear, no MatMulInteger)",
                hint="use int8-static",
            )
        graphs, notes = {}, {"activations": 0, "weights": 0, "embeddings": 0}
        kept: dict[str, str] = {}
        attention: list[str] = []
        for graph, model in program.graphs.items():
            made = plan(model, settings)
            refuse_nonfinite(model, made)
            writer = _Writer(GraphIndex(model), made, settings.qdq, settings.keep)
            graphs[graph] = writer.model()
            notes["activations"] += len(writer.quantized)
            notes["weights"] += len(writer.weights)
            notes["embeddings"] += len(writer.tables)
            kept |= made.kept | writer.kept
            attention += [f"{a.kind}: {a.describe()}" for a in made.attention]
        return replace(program, graphs=graphs), {**notes, "kept_float": kept, "attention": attention}


@dataclass
class _Writer:
    """Writes one graph anew: ``index`` reads the float one, ``made`` says which layers are INT8."""

    index: GraphIndex
    made: Plan
    qdq: QdqDialect
    keep: tuple[str, ...] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    quantized: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)
    unpacked: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The graph with its layers spelled out, without constants that nothing reads any more."""
        import onnx
        from onnx import numpy_helper

        for node in self.index.nodes:
            self._node(node)
        result = onnx.ModelProto()
        result.CopyFrom(self.index.model)
        graph = result.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input} | self.index.outputs
        kept = [t for t in graph.initializer if t.name in read or t.name not in self.weights | self.tables]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.constants.items())
        return result

    def _node(self, node: onnx.NodeProto) -> None:
        if self._is_lookup(node):
            self._lookup(node)
        elif node.op_type not in ("Gemm", "MatMul") or (node.name or node.output[0]) in self.made.kept:
            self.nodes.append(node)
        elif why := self._obstacle(node):
            self.kept[node.name or node.output[0]] = why
            self.nodes.append(node)
        elif self.qdq.dynamic == "engine":
            self._stored(node)
        else:
            self._layer(node)

    def _obstacle(self, node: onnx.NodeProto) -> str:
        if len(self.index.constant_shape(node.input[1]) or ()) != 2:
            return "a stack of matrices, where one scale an output channel is not defined"
        given = attributes(node)
        if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            return "its Gemm transposes the input or scales the sum"
        depth = (self.index.constant_shape(node.input[1]) or ())[1 if given.get("transB") else 0]
        return f"its depth {depth} is no multiple of {self.qdq.group}" if depth % self.qdq.group else ""

    def _layer(self, node: onnx.NodeProto) -> None:
        """``y = s_x s_w · (q_x - z_x) Q_w + b``: the order in which ONNX Runtime finds its fused kernel."""
        value, output = node.input[0], node.output[0]
        transposed = bool(attributes(node).get("transB"))
        weight, scale = self._weight(node.input[1], 0 if transposed else 1, transposed=transposed)
        self._quantize(value)
        biased = len(node.input) > 2 and bool(node.input[2])
        self._add("MatMulInteger", [f"{value}_q", weight, f"{value}_zero_point"], f"{output}_int32", like=node)
        self._add("Cast", [f"{output}_int32"], f"{output}_sum", to=1)
        self._add("Mul", [f"{value}_scale", scale], f"{output}_scale")
        product = f"{output}_product" if biased else output
        self._add("Mul", [f"{output}_sum", f"{output}_scale"], product)
        if biased:
            self._add("Add", [product, node.input[2]], output)

    def _stored(self, node: onnx.NodeProto) -> None:
        """The layer as it was, over a weight that alone is INT8: the engine sees to the activations."""
        import onnx

        axis = 0 if attributes(node).get("transB") else 1
        weight, scale = self._weight(node.input[1], axis, transposed=False)
        unpacked = f"{weight}_float"
        if unpacked not in self.unpacked:
            self.unpacked.add(unpacked)
            self._add("DequantizeLinear", [weight, scale], unpacked, axis=axis)
        layer = onnx.NodeProto()
        layer.CopyFrom(node)
        layer.input[1] = unpacked
        self.nodes.append(layer)

    def _weight(self, name: str, axis: int, *, transposed: bool) -> tuple[str, str]:
        """Names of an INT8 matrix with one scale along ``axis``, stored as it is or transposed, and of its scales."""
        stem = f"{name}_{'t_' if transposed else ''}int8"
        if stem not in self.constants:
            matrix = self.index.constant(name)
            assert matrix is not None
            levels, scale = quantize_weight(matrix, axis)
            self.constants[stem] = np.ascontiguousarray(levels.T) if transposed else levels
            self.constants[f"{stem}_scale"] = scale
            self.weights.add(name)
        return stem, f"{stem}_scale"

    def _quantize(self, value: str) -> None:
        if value not in self.quantized:
            self.quantized.add(value)
            parts = [f"{value}_q", f"{value}_scale", f"{value}_zero_point"]
            self._add("DynamicQuantizeLinear", [value], *parts)

    def _is_lookup(self, node: onnx.NodeProto) -> bool:
        """Rows of a float matrix by an index that is known only when running; INT8 rows need opset 13."""
        if node.op_type != "Gather" or attributes(node).get("axis", 0) or self.index.is_constant(node.input[1]):
            return False
        rows, columns = (*(self.index.constant_shape(node.input[0]) or ()), 0, 0)[:2]
        opset = next((o.version for o in self.index.model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if rows < _ROWS or columns < _ROWS or opset < 13 or len(self.index.constant_shape(node.input[0]) or ()) != 2:
            return False
        if any(matches(node, pattern) for pattern in self.keep):
            self.kept[node.name or node.output[0]] = "kept by request"
            return False
        table = self.index.constant(node.input[0])
        return table is not None and table.dtype == np.float32 and bool(np.isfinite(table).all())

    def _lookup(self, node: onnx.NodeProto) -> None:
        table, output = node.input[0], node.output[0]
        if table not in self.tables:
            self.tables.add(table)
            matrix = self.index.constant(table)
            assert matrix is not None
            self.constants[f"{table}_rows"], self.constants[f"{table}_rows_scale"] = quantize_weight(matrix, 1)
        self._add("Gather", [f"{table}_rows", node.input[1]], f"{output}_row", like=node)
        self._add("DequantizeLinear", [f"{output}_row", f"{table}_rows_scale"], output, axis=-1)

    def _add(
        self, kind: str, inputs: list[str], *outputs: str, like: onnx.NodeProto | None = None, **more: Any
    ) -> None:
        """A node; ``like`` gives its own name and module path to the one that stands for it."""
        from onnx import helper

        node = helper.make_node(kind, inputs, list(outputs), name=f"{outputs[0]}_{kind}", **more)
        if like is not None:
            node.name = like.name or like.output[0]
            node.metadata_props.extend(like.metadata_props)
        self.nodes.append(node)


SCHEME = Int8Dynamic()
