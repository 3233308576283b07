"""int8-dynamic: one form an engine, shared quantization, INT8 rows, and what it leaves alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.errors import BadInput, Unsupported, UsageError
from edgeattn.program import Program, QdqDialect, StageRecord
from edgeattn.quantize import Settings, forms, quantize
from edgeattn.rewrite._sample import graph

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)
CELL = """(int64[batch] token, float[batch,64] h) => (float[batch,64] y, float[batch,32] z, float[batch,4] n) {
    e = Gather(table, token)  x = Concat <axis = 1> (e, h)
    y = Gemm <transB = 1> (x, w, b)  z = MatMul(x, u)  n = MatMul(x, v) }"""
FEEDS = {"token": np.array([3, 7]), "h": RNG.standard_normal((2, 64)).astype(np.float32)}


def cell() -> onnx.ModelProto:
    return graph(CELL, table=(40, 64), w=(64, 128), b=(64,), u=(128, 32), v=(128, 4))


def dynamic(model: onnx.ModelProto, **settings: object) -> Program:
    program = Program({"main": model}, history=(StageRecord("test", 0.0),))
    return quantize(program, "int8-dynamic", backends.oracle, (), Settings(**settings))  # type: ignore[arg-type]


def kinds(program: Program) -> Counter[str]:
    return Counter(node.op_type for node in program.graphs["main"].graph.node)


def test_layers_that_read_one_value_share_its_quantization_and_a_narrow_one_stays_float() -> None:
    found = dynamic(cell())
    assert kinds(found)["DynamicQuantizeLinear"] == 1
    assert kinds(found)["MatMulInteger"] == 2
    assert kinds(found)["MatMul"] == 1
    notes = found.history[-1].notes
    assert (notes["activations"], notes["weights"], notes["embeddings"]) == (1, 2, 1)
    assert list(notes["kept_float"].values()) == ["narrow: 128 -> 4 channels, INT8 pays from 16"]


def test_weights_and_looked_up_rows_are_stored_in_a_quarter_of_the_bytes() -> None:
    before, after = cell(), dynamic(cell()).graphs["main"]
    assert after.ByteSize() < 0.4 * before.ByteSize()  # a quarter, and scales, names and the narrow layer in float
    assert {t.name for t in after.graph.initializer} >= {"table_rows", "w_t_int8", "u_int8", "v", "b"}
    assert not {"table", "w", "u"} & {t.name for t in after.graph.initializer}


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
@pytest.mark.parametrize("kind", ["usual", "zeros"])
def test_each_engine_computes_its_form_and_reports_it_as_int8(engine: str, kind: str, tmp_path: Path) -> None:
    backend = registry.get("backends", engine)
    quantized = dynamic(cell(), qdq=backend.qdq)
    options = Options("cpu", "int8", 1)
    built = backend.compile(quantized, options, tmp_path)
    feeds = FEEDS if kind == "usual" else {**FEEDS, "h": np.zeros_like(FEEDS["h"])}
    got = backend.open(tmp_path / built.files["main"], options).run(feeds)
    want = backends.oracle(Program({"main": cell()}))["main"].run(feeds)
    for name, value in want.items():
        # 8 bits a factor: 128 products with errors of a 500th of the range average to about 40 dB; 30 is the INT8 gate
        assert 20 * np.log10(np.linalg.norm(value) / np.linalg.norm(got[name] - value)) > 30, name
    precision = built.effective["main"]["precision"]
    assert precision["int8_macs"] == precision["macs"] * (64 + 32) // (64 + 32 + 4)


def test_an_engine_of_its_own_quantization_gets_weights_alone_and_float_where_its_groups_do_not_fit() -> None:
    found = dynamic(cell(), qdq=QdqDialect(dynamic="engine", group=32))
    assert kinds(found)["DequantizeLinear"] == 3  # two weights and the rows
    assert not {"MatMulInteger", "DynamicQuantizeLinear", "QuantizeLinear"} & set(kinds(found))
    odd = dynamic(cell(), qdq=QdqDialect(dynamic="engine", group=48))
    assert "its depth 128 is no multiple of 48" in odd.history[-1].notes["kept_float"].values()


def test_a_tied_embedding_is_looked_up_in_rows_and_multiplied_as_a_matrix() -> None:
    text = "(int64[b] token) => (float[b,40] y) { e = Gather(table, token)  y = Gemm <transB = 1> (e, table) }"
    tied = graph(text, table=(40, 64))
    (table,) = dynamic(tied).graphs["main"].graph.initializer[:1]
    assert table.name != "table"
    got = backends.oracle(dynamic(tied))["main"].run({"token": FEEDS["token"]})["y"]
    want = backends.oracle(Program({"main": tied}))["main"].run({"token": FEEDS["token"]})["y"]
    assert 20 * np.log10(np.linalg.norm(want) / np.linalg.norm(got - want)) > 30  # the INT8 gate


def test_what_it_cannot_do_is_an_error_in_one_line() -> None:
    with pytest.raises(Unsupported, match="quantizes no activations while it runs"):
        dynamic(cell(), qdq=QdqDialect(dynamic=""))
    with pytest.raises(UsageError, match="keep pattern 'nothing' matches no node"):
        dynamic(cell(), keep=("nothing",))
    broken = cell()
    next(t for t in broken.graph.initializer if t.name == "u").CopyFrom(
        onnx.numpy_helper.from_array(np.full((128, 32), np.nan, np.float32), "u")
    )
    with pytest.raises(BadInput, match="weight 'u' holds NaN"):
        dynamic(broken)


def test_a_layer_under_keep_stays_float_and_so_does_a_scaled_gemm() -> None:
    named = cell()
    named.graph.node[2].name = "gates"
    assert dynamic(named, keep=("gates",)).history[-1].notes["kept_float"]["gates"] == "kept by request"
    scaled = graph("(float[b,64] x) => (float[b,32] y) { y = Gemm <alpha = 0.5> (x, w) }", w=(64, 32))
    assert kinds(dynamic(scaled)) == {"Gemm": 1}


def test_int8_schemes_ask_for_a_cell_as_one_gemm_and_others_for_nothing() -> None:
    cell = ("lower_recurrent_cell", "merge_summed_products")
    assert all(forms(scheme) == cell for scheme in ("int8-dynamic", "int8-static", "int8-weights"))
    assert forms("bf16") == ()


def test_an_embedding_under_keep_is_looked_up_in_float() -> None:
    named = cell()
    next(n for n in named.graph.node if n.op_type == "Gather").name = "embed"
    found = dynamic(named, keep=("embed",)).history[-1].notes
    assert found["embeddings"] == 0
    assert found["kept_float"]["embed"] == "kept by request"
