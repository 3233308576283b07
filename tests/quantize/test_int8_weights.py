"""Weights in INT8, activations in float: what is stored how, and what engines compute from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeattn import backends, graphs, outside, registry
from edgeattn.backends import Options
from edgeattn.errors import BadInput, UsageError
from edgeattn.program import Program, QdqDialect
from edgeattn.quantize import Settings, quantize
from edgeattn.quantize._insert import quantize_weight
from edgeattn.rewrite._sample import graph
from tests.graphs import conv_net

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)
AT_EVERY_RUN = Settings(qdq=QdqDialect(unpacks_at_once=False))
ENGINES = ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)]


def quantized(net: onnx.ModelProto, settings: Settings | None = None) -> Program:
    result = quantize(Program({"main": net}), "int8-weights", backends.oracle, (), settings)
    onnx.checker.check_model(result.graphs["main"], full_check=True)
    return result


def two_gemms() -> onnx.ModelProto:
    return graph(
        """(float[n,64] x) => (float[n,64] y) {
            a = Gemm <transB = 1> (x, w, b)
            h = Tanh(a)
            y = Gemm <transB = 1> (h, v) }""",
        w=(256, 64),
        b=(256,),
        v=(64, 256),
    )


def snr(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(wanted - found)))


@pytest.mark.parametrize("engine", ENGINES)
def test_fp32_rounds_nothing_but_weights_and_int8_rounds_what_they_multiply(engine: str, tmp_path: Path):
    net = two_gemms()
    result = quantized(net)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(net)
    for tensor in rounded.graph.initializer:
        if tensor.name in ("w", "v"):
            levels, scale = quantize_weight(numpy_helper.to_array(tensor), 0)
            tensor.CopyFrom(numpy_helper.from_array(levels * scale[:, None], tensor.name))
    x = {"x": RNG.standard_normal((2, 64)).astype(np.float32)}
    (wanted,) = backends.oracle(Program({"main": rounded}))["main"].run(x).values()
    backend = registry.get("backends", engine)
    found = {}
    for precision in ("fp32", "int8"):
        options = Options(precision=precision, threads=1)
        (tmp_path / precision).mkdir()
        built = backend.compile(result, options, tmp_path / precision)
        assert built.effective["main"]["precision"]["counts"] == {precision: 2}
        (found[precision],) = backend.open(tmp_path / precision / built.files["main"], options).run(x).values()
    np.testing.assert_allclose(found["fp32"], wanted, rtol=1e-5, atol=1e-4)  # sums of 256 products in another order
    # 32 numbers share a scale: INT8's 127 levels leave about 44 dB a product, and there are two
    assert 35 < snr(wanted, found["int8"]) < 60


def test_the_file_is_a_quarter_and_products_lie_as_engines_multiply_them():
    net = two_gemms()
    result = quantized(net)
    assert outside.size(result.graphs["main"]) < 0.3 * outside.size(net)  # scales, zero points and biases are float
    stored = {t.name: t for t in result.graphs["main"].graph.initializer}
    assert list(stored["w_transposed_int8"].dims) == [64, 256]
    assert stored["w_transposed_int8"].data_type == TensorProto.INT8
    assert "w" not in stored
    notes = result.history[-1].notes
    assert (notes["bytes"], notes["bytes_after"]) == (outside.size(net), outside.size(result.graphs["main"]))


def test_a_product_that_is_summed_with_another_value_is_multiplied_packed_too():
    """As where a decoder's values are hoisted: ONNX Runtime would make a Gemm of both and unpack the weight anew."""
    net = graph("(float[n,64] x, float[n,256] z) => (float[n,256] y) { p = MatMul(x, w) y = Add(p, z) }", w=(64, 256))
    executed = registry.get("backends", "onnxruntime").profile(
        quantized(net, AT_EVERY_RUN).graphs["main"], Options(precision="int8", threads=1)
    )
    assert [(node.op, node.precision) for node in executed if node.role in ("product", "quantize")] == [
        ("MatMulNBits", "int8")
    ]


@pytest.mark.parametrize(("settings", "operators"), [(Settings(), []), (AT_EVERY_RUN, ["Cast", "Mul"])])
def test_weights_that_are_not_multiplied_packed_stand_as_the_engine_unpacks_them_once(settings, operators):
    net = conv_net(32)
    model = quantized(net, settings).graphs["main"]
    index = graphs.GraphIndex(model)
    assert index.producer[index.producer["c2"].input[1]].op_type == (operators or ["DequantizeLinear"])[-1]
    assert graphs.macs_by_node(model) == graphs.macs_by_node(net)
    lstm = graph(
        "(float[s,n,32] x) => (float[s,1,n,32] y) { y, last, cell = LSTM <hidden_size = 32> (x, w, r) }",
        w=(1, 128, 32),
        r=(1, 128, 32),
    )
    result = quantized(lstm, settings)
    assert len(graphs.packed_weights(result.graphs["main"])) == 2
    x = {"x": RNG.standard_normal((5, 2, 32)).astype(np.float32)}
    before, after = (backends.oracle(p)["main"].run(x)["y"] for p in (Program({"main": lstm}), result))
    assert snr(before, after) > 35  # half a step of 127 in every weight, averaged over 64 products: near 42 dB


@pytest.mark.parametrize(
    ("settings", "order"),
    [(Settings(), ["DequantizeLinear", "Gather"]), (AT_EVERY_RUN, ["Gather", "DequantizeLinear"])],
)
def test_where_unpacking_costs_at_every_run_only_the_rows_looked_up_are(settings, order):
    net = graph("(int64[n] token) => (float[n,32] y) { y = Gather(table, token) }", table=(100, 32))
    model = quantized(net, settings).graphs["main"]
    assert [node.op_type for node in model.graph.node] == order
    run = backends.oracle(Program({"main": model}))["main"].run
    table = numpy_helper.to_array(net.graph.initializer[0])
    steps = np.abs(table).max(axis=order.index("Gather"), keepdims=True) / 127
    token = np.arange(100)
    error = np.abs(run({"token": token})["y"] - table)
    assert (error <= 0.5001 * steps).all()  # half a step of each row or column, and float32's last digit


@pytest.mark.parametrize("settings", [Settings(), AT_EVERY_RUN])
def test_a_table_that_is_the_output_map_too_is_packed_for_both(settings):
    net = graph(
        "(int64[n] token) => (float[n,100] y) { x = Gather(table, token) \n y = Gemm <transB = 1> (x, table) }",
        table=(100, 32),
    )
    model = quantized(net, settings).graphs["main"]
    assert sorted(graphs.packed_weights(model)) == ["table_packed", "table_transposed_int8"]
    assert {t.data_type for t in model.graph.initializer if len(t.dims) > 1} == {TensorProto.INT8}


def test_a_convolution_without_bias_is_packed_too():
    net = graph("(float[n,32,4,4] x) => (float[n,32,4,4] y) { y = Conv(x, w) }", w=(32, 32, 1, 1))
    assert graphs.packed_weights(quantized(net).graphs["main"]) == ["w_packed"]


def test_what_is_kept_stays_and_what_is_not_finite_is_refused():
    kept = quantized(two_gemms(), Settings(keep=("node_y",)))
    assert graphs.packed_weights(kept.graphs["main"]) == ["w_transposed_int8"]
    with pytest.raises(UsageError, match="keep pattern 'node_z' matches no node"):
        quantized(two_gemms(), Settings(keep=("node_z",)))
    table = np.ones((100, 32), np.float32)
    table[3, 4] = np.nan
    net = graph("(int64[n] token) => (float[n,32] y) { y = Gather(table, token) }", table=table)
    with pytest.raises(BadInput, match="weight 'table' holds NaN or infinite values"):
        quantized(net)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_looks_up_what_its_dialect_stores(engine: str):
    """OpenVINO 2026.4 reads past the end of a table with a scale a column: a scale a row is what it takes."""
    backend = registry.get("backends", engine)
    net = graph(
        "(int64[n] token) => (float[n,256] y) { x = Gather(table, token) \n y = MatMul(x, w) }",
        table=(1000, 256),
        w=(256, 256),
    )
    result = quantized(net, Settings(qdq=backend.qdq))
    token = {"token": np.arange(0, 1000, 7)}
    (wanted,) = backends.oracle(result)["main"].run(token).values()
    (found,) = backend.load(result.graphs["main"], Options(threads=1)).run(token).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)  # sums of 256 products in another order
