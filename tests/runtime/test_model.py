"""Bundles of real engines, packed, verified, opened and run with numpy alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn import decode, registry
from edgeattn.backends import Options
from edgeattn.bundle.manifest import Tolerance, entry, parse
from edgeattn.bundle.pack import Sample, pack
from edgeattn.errors import BadInput, EngineFailed, IntegrityError, MissingPackage, UnknownName
from edgeattn.program import Program, Stop, Wiring
from edgeattn.runtime import Model, load

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]
ENGINES = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("onnxruntime", "openvino")]
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 10


def model(inputs: str, outputs: str, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """``inputs`` like ``"x:f batch,3; token:i batch"``."""

    def value(text: str) -> onnx.ValueInfoProto:
        head, shape = text.strip().split(" ")
        name, kind = head.split(":")
        dims = [int(d) if d.isdigit() else d for d in shape.split(",")]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT if kind == "f" else TensorProto.INT64, dims)

    graph = helper.make_graph(
        nodes, "g", [value(v) for v in inputs.split(";")], [value(v) for v in outputs.split(";")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def classifier() -> Program:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return Program({"main": model("x:f batch,3", "y:f batch,4", nodes, w=WEIGHT - 0.5)})


def counter() -> Program:
    """A program that decodes: from token t the next is t + 1 (logits are row t of a shifted identity), 4 ends."""
    table = np.eye(5, k=1, dtype=np.float32)
    encoder = model("x:f batch,2", "h0:f batch,2", [helper.make_node("Relu", ["x"], ["h0"])])
    step = model(
        "token:i batch; h:f batch,2",
        "logits:f batch,5; h_out:f batch,2",
        [helper.make_node("Gather", ["table", "token"], ["logits"]), helper.make_node("Add", ["h", "one"], ["h_out"])],
        table=table,
        one=np.ones(1, np.float32),
    )
    wiring = Wiring({"step.h": "encoder.h0"}, {"step.h": "step.h_out"}, Stop("step.token", "step.logits", 1, 4, 9))
    return Program({"encoder": encoder, "step": step}, wiring)


X = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)
EXPECTED = np.maximum(X @ (WEIGHT - 0.5), 0)


def bundle(folder: Path, program: Program, name: str, sample: Sample | None = None) -> Path:
    out = folder / "bundle"
    (out / "engine").mkdir(parents=True)
    engine = registry.get("backends", name).compile(program, Options(threads=1), out / "engine")
    pack(
        out, program=program, engine=engine, model="tiny", target=f"{name}:cpu", task="digits",
        assets={"labels.txt": b"a\nb\n"}, sample=sample,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("name", ENGINES)
def test_a_bundle_runs_its_graph_and_passes_its_selftest(name: str, tmp_path: Path) -> None:
    # A 3-term float32 dot product of values below 4 rounds by at most a few ulp: 1e-6.
    sample = Sample({"x": X}, {"y": EXPECTED}, {"y": Tolerance(1e-6, 0.0)})
    with load(bundle(tmp_path, classifier(), name, sample)) as m:
        assert [str(s) for s in m.inputs] == ["x: float32[batch, 3]"]
        assert [str(s) for s in m.outputs] == ["y: float32[batch, 4]"]
        np.testing.assert_allclose(m.run(x=X)["y"], EXPECTED, rtol=0, atol=1e-6)
        np.testing.assert_allclose(m.run({"x": X[:1]})["y"], EXPECTED[:1], rtol=0, atol=1e-6)
        assert m.asset("labels.txt") == b"a\nb\n"
        assert m.selftest().passed
        assert (m.manifest.backend, m.manifest.device, m.manifest.precision["effective"]) == (name, "cpu", "fp32")


@pytest.mark.parametrize("name", ENGINES)
def test_a_wired_bundle_decodes_greedily_and_by_force(name: str, tmp_path: Path) -> None:
    x = np.zeros((2, 2), np.float32)
    tokens = np.array([[2, 3, 4], [2, 3, 4]])
    m = load(bundle(tmp_path, counter(), name, Sample({"x": x}, {"tokens": tokens})))
    assert [s.name for s in m.inputs] == ["x"]
    out = m.run(x=x)
    np.testing.assert_array_equal(out["tokens"], tokens)
    if name == "onnxruntime":  # OpenVINO keeps the state to itself
        np.testing.assert_array_equal(out["h_out"][:, 0, 0], [1, 2, 3])
    assert m.selftest().passed
    forced = Sample({"x": x}, {"logits": np.eye(5, k=1, dtype=np.float32)[[[0, 0], [3, 3]]]}, tokens=tokens[:, ::2] * 0)
    again = load(bundle(tmp_path / "again", counter(), name, forced))
    result = again.selftest()
    assert not result.passed  # the second step was fed token 0, not 3
    assert result.failed[0].startswith("logits: differs by up to 1")


@pytest.mark.onnxruntime
def test_an_engine_file_that_is_the_portable_graph_is_packed_once(tmp_path: Path) -> None:
    m = load(bundle(tmp_path, classifier(), "onnxruntime"))
    assert m.manifest.graphs["main"].portable == m.manifest.graphs["main"].file == "engine/main.onnx"
    with pytest.raises(BadInput, match="has no self-test"):
        m.selftest()


@pytest.mark.openvino
def test_the_portable_graph_lies_beside_an_engine_of_another_format(tmp_path: Path) -> None:
    program = classifier()
    path = bundle(tmp_path, program, "openvino")
    assert sorted(load(path).manifest.files) == [
        "assets/labels.txt", "engine/main.bin", "engine/main.xml", "portable/main.onnx",
    ]  # fmt: skip
    assert onnx.load(path / "portable/main.onnx") == program.graphs["main"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pytest.importorskip("onnxruntime")
    nodes = [helper.make_node("Add", ["x", "mask"], ["y"])]
    program = Program({"main": model("x:f batch,3; mask:f batch,3", "y:f batch,3", nodes)})
    return load(bundle(tmp_path_factory.mktemp("b"), program, "onnxruntime"))


OK = np.zeros((2, 3), np.float32)
FEEDS: dict[str, tuple[Mapping[str, object], str]] = {
    "missing": ({"x": OK}, "missing input mask; expected x: float32[batch, 3]; mask: float32[batch, 3]"),
    "none": ({}, "missing input x, mask"),
    "extra": ({"x": OK, "mask": OK, "z": OK}, "unknown input z; expected x: float32[batch, 3]"),
    "dtype": ({"x": OK.astype(np.float64), "mask": OK}, "input 'x' is float64; expected x: float32[batch, 3]"),
    "rank": ({"x": OK[0], "mask": OK}, "input 'x' has shape [3]; expected x: float32[batch, 3]"),
    "size": ({"x": OK[:, :2], "mask": OK}, "input 'x' has shape [2, 2]; expected x: float32[batch, 3]"),
    "batch differs": ({"x": OK, "mask": OK[:1]}, "'batch' is 2 in input 'x' and 1 in 'mask'"),
    "empty": ({"x": OK[:0], "mask": OK[:0]}, "input 'x' is empty: shape [0, 3]"),
    "a list": ({"x": [[0.0] * 3], "mask": OK}, "input 'x' is a list, not a numpy array"),
    "objects": ({"x": OK.astype(object), "mask": OK}, "input 'x' is object"),
}


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", FEEDS)
def test_a_wrong_input_is_named_with_got_and_expected(name: str, opened: Model) -> None:
    feeds, what = FEEDS[name]
    with pytest.raises(BadInput) as e:
        opened.run(feeds)  # type: ignore[arg-type]
    assert what in str(e.value)
    assert e.value.exit_code == 3


@pytest.mark.onnxruntime
def test_assets_are_asked_for_by_name(opened: Model) -> None:
    with pytest.raises(UnknownName, match=r"unknown asset 'label\.txt'; did you mean 'labels\.txt'\?"):
        opened.asset("label.txt")


@pytest.mark.onnxruntime
def test_a_closed_model_says_so(tmp_path: Path) -> None:
    m = load(bundle(tmp_path, classifier(), "onnxruntime"))
    m.close()
    with pytest.raises(BadInput, match="is closed"):
        m.run(x=X)


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"y": EXPECTED + 1}, "y: differs by up to 1"),
        ({"y": np.full_like(EXPECTED, np.inf)}, "y: differs by up to inf"),
        ({"y": np.full_like(EXPECTED, np.nan)}, "y: differs by up to nan"),
        ({"y": EXPECTED[:1]}, "y: got float32[2, 4], expected float32[1, 4]"),
        ({"y": EXPECTED.astype(np.float64)}, "y: got float32[2, 4], expected float64[2, 4]"),
        ({"z": EXPECTED}, "z: got nothing, expected float32[2, 4]"),
    ],
)
def test_a_selftest_fails_on_any_difference(outputs: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    sample = Sample({"x": X}, outputs, {"y": Tolerance(1e-3, 1e-3)})
    result = load(bundle(tmp_path, classifier(), "onnxruntime", sample)).selftest()
    assert not result.passed
    assert result.failed[0].startswith(said)


@pytest.mark.onnxruntime
def test_a_changed_engine_file_never_reaches_the_engine(tmp_path: Path) -> None:
    path = bundle(tmp_path, classifier(), "onnxruntime")
    data = bytearray((path / "engine/main.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "engine/main.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"engine/main\.onnx: has changed"):
        load(path)


def _edit(path: Path, **changes: Any) -> None:
    """Write the manifest anew, as a tool that knows the format could: unsigned, so only the content counts."""
    manifest = parse((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(replace(manifest, **changes).dumps())


@pytest.mark.onnxruntime
def test_an_engine_that_is_not_here_is_named_with_its_extra(tmp_path: Path) -> None:
    path = bundle(tmp_path, classifier(), "onnxruntime")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED % "['onnxruntime']" + "import edgeattn.runtime as r; r.load(sys.argv[1])", path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert MissingPackage.__name__ in done.stderr
    assert "pip install 'edgeattn[onnxruntime]'" in done.stderr


@pytest.mark.onnxruntime
def test_an_unknown_engine_or_option_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = bundle(tmp_path, classifier(), "onnxruntime")
    _edit(path, backend="warpdrive")
    with pytest.raises(Exception, match="does not know; upgrade edgeattn") as e:
        load(path)
    assert e.value.exit_code == 4  # type: ignore[attr-defined]
    _edit(path, backend="onnxruntime", options={"turbo": 1})
    with pytest.raises(IntegrityError, match="options this edgeattn does not know: turbo"):
        load(path)


@pytest.mark.onnxruntime
def test_a_file_the_engine_cannot_open_names_both_versions(tmp_path: Path) -> None:
    program = Program({"main": model("x:f 1", "y:f 1", [helper.make_node("Relu", ["x"], ["y"])])})
    path = bundle(tmp_path, program, "onnxruntime")
    (path / "engine/main.onnx").write_bytes(b"\x08\x63")  # a valid protobuf of IR version 99, which no engine opens
    _edit(path, files={"engine/main.onnx": entry(path / "engine/main.onnx"), **_assets(path)})
    with pytest.raises(EngineFailed, match=r"built with onnxruntime \d.*cannot open it"):
        load(path)


def _assets(path: Path) -> dict[str, Any]:
    return {"assets/labels.txt": entry(path / "assets/labels.txt")}


BLOCKED = """
import sys, importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if sys.modules.get(name, 0) is None else find_spec(name, *a)
for name in %s:
    sys.modules[name] = None  # importing it raises ImportError
"""
HEAVY = ["torch", "onnx", "pydantic", "typer", "rich", "yaml", "onnx_ir", "onnxscript", "sklearn", "safetensors"]


@pytest.mark.parametrize("name", ENGINES)
def test_a_bundle_runs_where_nothing_but_numpy_and_its_engine_is_installed(name: str, tmp_path: Path) -> None:
    path = bundle(tmp_path, classifier(), name, Sample({"x": X}, {"y": EXPECTED}, {"y": Tolerance(1e-6, 0)}))
    body = BLOCKED % HEAVY + (
        "import edgeattn.runtime as r\n"
        "with r.load(sys.argv[1]) as m:\n    assert m.selftest().passed\n"
        f"print(sorted(n for n in {HEAVY} if sys.modules.get(n)))"
    )
    done = subprocess.run([sys.executable, "-c", body, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.onnxruntime
@pytest.mark.parametrize("asset", ["../x", "a/b", "", ".", "a\nb", "/x"])
def test_assets_that_could_leave_the_bundle_are_not_packed(asset: str, tmp_path: Path) -> None:
    program = classifier()
    (tmp_path / "e").mkdir()
    (tmp_path / "out").mkdir()
    engine = registry.get("backends", "onnxruntime").compile(program, Options(threads=1), tmp_path / "e")
    with pytest.raises(BadInput, match="not a usable asset name"):
        pack(tmp_path / "out", program=program, engine=engine, model="m", target="onnxruntime", assets={asset: b""})


@pytest.mark.onnxruntime
def test_the_packed_program_gives_what_the_open_sessions_gave(tmp_path: Path) -> None:
    program = counter()
    backend = registry.get("backends", "onnxruntime")
    sessions = {name: backend.load(m, Options(threads=1)) for name, m in program.graphs.items()}
    x = np.ones((1, 2), np.float32)
    direct = decode.run(sessions, program.wiring, {"x": x})
    packed = load(bundle(tmp_path, program, "onnxruntime")).run(x=x)
    assert direct.keys() == packed.keys()
    for name, value in direct.items():
        np.testing.assert_array_equal(packed[name], value)
