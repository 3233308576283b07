"""The planted graphs before the real engines: what the table lets pass, they take."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto as T

from tests.benchmarks.doctor_agreement import TARGETS, Verdict, compare, target_of
from tests.benchmarks.doctor_ask import ask
from tests.benchmarks.doctor_cases import planted_cases
from tests.benchmarks.planted._model import model, node

# Refused though the engine builds them: it reads them as something else than they are, or only because the test's
# profile leaves one value. Each is named here, so that a new one shows.
OPSET_40 = {"opset.40": "an opset that does not exist yet"}
STRICTER = {
    "tensorrt_rtx": {
        **OPSET_40,
        "CumSum.xp-given": "its axis is an input, which one profile fixes",
        "domain.microsoft-gelu": "a vendor's operator, read as the standard one of that name",
        "domain.nowhere": "nobody's operator, read as the standard one of that name",
        "onehot.depth-given": "its depth is an input, which one profile fixes",
        "qdq.activation-per-channel": "documented for weights alone",
        "qdq.float8e4m3fn-zero-1": "documented as zero",
        "qdq.no-zero-point": "UINT8 by ONNX, documented for inputs and outputs alone",
        "qdq.scale-inf": "no number",
        "qdq.uint8-zero-0": "documented for inputs and outputs alone",
        "shape.no-rank": "taken for a scalar",
    },
    "openvino": {
        **OPSET_40,
        "domain.microsoft-gelu": "a vendor's operator",
        "domain.microsoft-attention": "a vendor's operator",
    },
    "onnxruntime": {
        "domain.microsoft-gelu": "a vendor's operator",
        "domain.microsoft-attention": "a vendor's operator",
        "domain.ml": "another standard domain, which no other engine has",
    },
}


def verdicts(engine: str, folder: Path, every: int) -> list[Verdict]:
    files = planted_cases(folder)[::every]
    return compare(files, ask(engine, files), TARGETS[engine])


def agree(found: list[Verdict], engine: str) -> None:
    wrong = [v for v in found if v.kind == "false pass"]
    assert not wrong, "\n".join(f"{v.name}: {v.answer.why}" for v in wrong)
    strict = {v.name.removeprefix("planted."): v.found for v in found if v.kind == "false refusal"}
    assert not {name: why for name, why in strict.items() if name not in STRICTER[engine]}


@pytest.mark.tensorrt
@pytest.mark.tensorrt_rtx
def test_tensorrt_for_rtx_builds_what_passes(tmp_path: Path) -> None:
    agree(verdicts("tensorrt_rtx", tmp_path, 1), "tensorrt_rtx")


def attention(
    kind: str, query: int, size: int, heads: tuple[int, int] = (4, 4), **attributes: object
) -> onnx.ModelProto:
    """Attention of three dimensions: 2 x query x (heads * size), and 6 keys."""
    number = T.DataType.Value(kind)
    given = [(n, number, (2, 6 if i else query, heads[i > 0] * size)) for i, n in enumerate("qkv")]
    asked = node("Attention", "q k v", q_num_heads=heads[0], kv_num_heads=heads[1], **attributes)
    return model([asked], given, [("y", number, None)], opset=23)


FLAT = {
    "plain": attention("FLOAT", 4, 8),
    "plain-bfloat16": attention("BFLOAT16", 4, 20),
    "causal": attention("FLOAT", 4, 64, is_causal=1),
    "causal-float16": attention("FLOAT16", 4, 64, is_causal=1),
    "grouped": attention("FLOAT", 4, 8, (4, 2)),
    "grouped-float16": attention("FLOAT16", 4, 24, (4, 2)),
    "one-query": attention("FLOAT16", 1, 4),
}


@pytest.mark.tensorrt
@pytest.mark.tensorrt_rtx
def test_attention_of_three_dimensions_passes_where_tensorrt_for_rtx_builds_it(tmp_path: Path) -> None:
    for name, graph in FLAT.items():
        onnx.save(graph, tmp_path / f"{name}.onnx")
    files = sorted(tmp_path.glob("*.onnx"))
    found = compare(files, ask("tensorrt_rtx", files), target_of("tensorrt_rtx", "", "sm89"))
    assert {v.name: v.kind for v in found} == dict.fromkeys(FLAT, "agree")
    assert {v.name for v in found if v.found} == {"causal", "grouped", "one-query"}


@pytest.mark.openvino
def test_openvino_compiles_what_passes(tmp_path: Path) -> None:
    agree(verdicts("openvino", tmp_path, 4), "openvino")


@pytest.mark.onnxruntime
def test_onnx_runtime_opens_what_passes(tmp_path: Path) -> None:
    agree(verdicts("onnxruntime", tmp_path, 4), "onnxruntime")
