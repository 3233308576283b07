"""Weights that stay in a file: where they are put, who reads them, and what happens when the file changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from edgeattn import backends, outside, publish, storage
from edgeattn.errors import EdgeattnError, IntegrityError
from edgeattn.graphs import GraphIndex, parameters
from edgeattn.preflight import _external, _read, read_model
from edgeattn.program import Program
from tests import corpus
from tests.benchmarks.heavy import write
from tests.conftest import edgeattn

LAYERS, WIDTH = 2, 256  # each weight is 256 KiB: large enough to stay outside


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model with its weights in ``m.onnx.data``."""
    write(tmp_path / "m.onnx", LAYERS, WIDTH, outside=True)
    return tmp_path / "m.onnx"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The same model in one file."""
    write(tmp_path / "one.onnx", LAYERS, WIDTH, outside=False)
    return tmp_path / "one.onnx"


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: outside.array(tensor) for tensor in model.graph.initializer}


def test_large_weights_stay_in_their_file_and_small_ones_do_not(beside: Path, inside: Path) -> None:
    model, plain = read_model(beside), read_model(inside)
    assert [t.name for t in outside.tensors(model)] == ["w0", "w1"]
    assert not outside.tensors(plain)
    assert parameters(model) == parameters(plain)
    assert model.ByteSize() < 20_000
    assert outside.size(model) > LAYERS * WIDTH * WIDTH * 4
    for name, array in weights(plain).items():
        np.testing.assert_array_equal(weights(model)[name], array)
    assert not weights(model)["w0"].flags.writeable
    np.testing.assert_array_equal(GraphIndex(model).constant("w1"), GraphIndex(plain).constant("w1"))


def test_the_weights_of_a_heavy_file_move_out_of_memory(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read_model(inside)
    monkeypatch.setattr(_read, "HEAVY_BYTES", 0)
    model = read_model(inside)
    assert [t.name for t in outside.tensors(model)] == ["w0", "w1"]
    for name, array in weights(plain).items():
        np.testing.assert_array_equal(weights(model)[name], array)
    storage.save(Program({"main": model}), inside.with_name("again.onnx"))
    assert onnx.load(inside.with_name("again.onnx")) == plain


@pytest.mark.parametrize("name", [n for n in corpus.CASES if "2 GiB" not in n])
def test_a_bad_file_is_refused_as_well_when_it_is_heavy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_read, "HEAVY_BYTES", 0)
    monkeypatch.setattr(outside, "LARGE_BYTES", 8)
    monkeypatch.setattr(_external, "LARGE_BYTES", 8)
    make, code, _ = corpus.CASES[name]
    path = make(tmp_path)
    with pytest.raises(EdgeattnError) as caught:
        read_model(path)
    assert caught.value.exit_code == code
    assert caught.value.where == str(path)


def test_digests_do_not_depend_on_where_the_weights_lie(beside: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "m.onnx", LAYERS, WIDTH, outside=True)
    here, there = (Program({"main": read_model(path)}) for path in (beside, tmp_path / "elsewhere" / "m.onnx"))
    assert here.digest() == there.digest()
    os.truncate(tmp_path / "elsewhere" / "m.onnx.data", 0)
    with pytest.raises(IntegrityError):
        there.digest()


def test_a_program_is_written_in_one_file_while_it_fits(beside: Path, inside: Path, tmp_path: Path) -> None:
    storage.save(storage.load(beside), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx.data").exists()
    assert onnx.load(tmp_path / "out.onnx") == onnx.load(inside)


def test_a_larger_one_is_written_with_its_weights_beside_it(
    beside: Path, inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside._write, "FILE_LIMIT", 1000)
    (tmp_path / "out").mkdir()
    storage.save(storage.load(beside), tmp_path / "out" / "big.onnx")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["big.onnx", "big.onnx.data"]
    onnx.checker.check_model(tmp_path / "out" / "big.onnx")
    again = storage.load(tmp_path / "out" / "big.onnx").graphs["main"]
    for name, array in weights(read_model(inside)).items():
        np.testing.assert_array_equal(weights(again)[name], array)


def test_both_files_are_published_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    with publish.new_file(out) as built:
        built.write_text("model")
        built.with_name("m.onnx.data").write_text("weights")
    assert (out.read_text(), (tmp_path / "m.onnx.data").read_text()) == ("model", "weights")
    assert publish.free_name(tmp_path / "other.data") == "other.data"
    free = publish.free_name(tmp_path / "m.onnx.data")
    assert free != "m.onnx.data", "the old model's weights are never overwritten: it is whole until the new one is"

    def fails(*_: object) -> None:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(publish, "_put_in_place", fails)

    def publish_anew() -> None:
        with publish.new_file(out, force=True) as built:
            built.write_text("new")
            built.with_name(free).write_text("new weights")

    with pytest.raises(EdgeattnError):
        publish_anew()
    assert out.read_text() == "model"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize("change", ["bytes", "shorter", "another file", "gone"])
def test_a_file_that_changed_after_it_was_checked_is_refused_by_everyone(
    beside: Path, tmp_path: Path, change: str
) -> None:
    model = read_model(beside)
    data = tmp_path / "m.onnx.data"
    if change == "bytes":
        with data.open("r+b") as file:
            file.write(b"\1\2\3\4")
    elif change == "shorter":
        os.truncate(data, 1000)
    elif change == "another file":
        (tmp_path / "new").write_bytes(data.read_bytes())
        os.replace(tmp_path / "new", data)
    else:
        data.unlink()
    for use in (
        lambda: outside.array(model.graph.initializer[-1]),
        lambda: outside.verify(model),
        lambda: storage.save(Program({"main": model}), tmp_path / "out.onnx"),
        lambda: Program({"main": model}).digest(),
        lambda: backends.oracle(Program({"main": model})),
    ):
        with pytest.raises(IntegrityError, match=r"changed after it was checked|cannot be read any more"):
            use()


@pytest.mark.onnxruntime
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_compute_the_same_from_weights_outside(beside: Path, inside: Path, engine: str) -> None:
    from edgeattn import registry

    backend = registry.get("backends", engine)
    if not backend.probe().available:
        pytest.skip(f"{engine} is not installed")
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 6, WIDTH), np.float32)}
    mapped, held = (backend.load(read_model(p), backends.Options()).run(feeds)["y"] for p in (beside, inside))
    np.testing.assert_array_equal(mapped, held)  # the same kernels on the same numbers


@pytest.mark.onnxruntime
def test_large_constants_that_a_rule_makes_go_outside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeattn.rewrite import _apply, rewrite

    monkeypatch.setattr(_apply, "SPILL_BYTES", 1 << 10)
    write(tmp_path / "m.onnx", LAYERS, WIDTH, outside=True)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "small"))
    model.graph.node[-1].input[0] = "product"
    model.graph.node.insert(len(model.graph.node) - 1, onnx.helper.make_node("Add", ["small", "small"], ["twice"]))
    model.graph.node.insert(len(model.graph.node) - 1, onnx.helper.make_node("MatMul", ["same", "twice"], ["product"]))
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "m.onnx").unlink()
    program = storage.with_reference(storage.load(tmp_path / "n.onnx"), backends.oracle)
    result = rewrite(program, backends.oracle).graphs["main"]
    names = {t.name for t in outside.tensors(result)}
    assert "twice" in names
    assert {"w0", "w1"} <= names
    np.testing.assert_array_equal(weights(result)["twice"], np.full((WIDTH, WIDTH), 2, np.float32))


@pytest.mark.onnxruntime
def test_every_command_takes_a_model_with_external_data(beside: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    np.savez(tmp_path / "calib.npz", x=np.random.default_rng(0).standard_normal((4, 6, WIDTH)).astype(np.float32))
    done: dict[str, dict] = {}
    for words in (
        ["inspect", beside], ["recognise", beside], ["why-not", "remove_expand", beside],
        ["rewrite", beside, "-o", "r.onnx"], ["quantize", beside, "-o", "q.onnx", "--calib", "calib.npz"],
        ["compile", "r.onnx", "-o", "bundle", "--target", "onnxruntime"],
        ["parity", beside, "r.onnx", "--precision", "rewrite"], ["parity", beside, "bundle"],
        ["bench", beside, "r.onnx", "--pairs", "20"],
    ):  # fmt: skip
        ran = edgeattn(*words, "--json", cwd=tmp_path)
        assert ran.returncode in (0, 75), f"{words}: {ran.stderr}"  # 75: the machine was too busy to measure on
        done[str(words[0])] = json.loads(ran.stdout)
    assert done["inspect"]["graphs"]["main"]["parameters"] == LAYERS * (WIDTH * WIDTH + 2 * WIDTH)
    assert {r["rule"]: r["count"] for r in done["rewrite"]["rules"] if r["count"]}["fuse_layernorm"] == LAYERS
    assert all(tmp_path.joinpath(name).read_bytes() == data for name, data in before.items()), "the input was touched"
