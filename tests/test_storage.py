from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn import arrays as reading
from edgeattn import backends, storage
from edgeattn.arrays import read_npz
from edgeattn.errors import BadInput, OutOfResources
from edgeattn.program import Program, Stop, TensorSpec, Wiring
from tests.graphs import conv_net, counter

SPECS = [TensorSpec("x", "float32", ("batch", 3))]


def counting() -> Program:
    graphs, wiring = counter()
    return Program(graphs, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))


def test_one_graph_is_one_file(tmp_path: Path) -> None:
    storage.save(Program({"main": conv_net()}), tmp_path / "m.onnx")
    assert storage.load(tmp_path / "m.onnx").digest() == Program({"main": conv_net()}).digest()


def test_several_graphs_are_a_directory_with_their_wiring(tmp_path: Path) -> None:
    program = counting()
    storage.save(program, tmp_path)
    read = storage.load(tmp_path)
    assert list(read.graphs) == ["encoder", "step"]
    assert read.wiring == program.wiring
    assert read.digest() == program.digest()


@pytest.mark.parametrize("text", ["", "{}", '{"graphs": ["../x"], "feeds": {}, "state": {}, "stop": {}}'])
def test_a_broken_wiring_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "wiring.json").write_text(text)
    with pytest.raises(BadInput, match="is not a wiring"):
        storage.load(tmp_path)


def test_graph_names_cannot_leave_the_directory(tmp_path: Path) -> None:
    storage.save(counting(), tmp_path)
    value = json.loads((tmp_path / "wiring.json").read_text())
    value["graphs"] = ["../encoder", "step"]
    (tmp_path / "wiring.json").write_text(json.dumps(value))
    with pytest.raises(BadInput, match="plain words"):
        storage.load(tmp_path)


@pytest.mark.onnxruntime
def test_a_graph_without_pytorch_is_its_own_oracle() -> None:
    for program in (Program({"main": conv_net()}), counting()):
        reference = storage.with_reference(program, backends.oracle).reference
        assert reference is not None
        assert reference.origin == "source graph"
        assert all(case.outputs for case in reference.cases)


def npz(tmp_path: Path, **arrays: np.ndarray) -> Path:
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path / "d.npz"


def test_reads_arrays_for_the_inputs(tmp_path: Path) -> None:
    data = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(read_npz(npz(tmp_path, x=data), SPECS)["x"], data)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "has no array 'x'; expected x: float32"),
        ({"y": np.ones((1, 3), np.float32)}, "has an array 'y' that is no input"),
        ({"x": np.ones((1, 3))}, "'x' is float64; expected x: float32"),
        ({"x": np.ones((1, 4), np.float32)}, r"'x' has shape \[1, 4\]"),
        ({"x": np.ones((0, 3), np.float32)}, "'x' holds no sample"),
        ({"x": np.array([[1, 1, 1], [1, np.nan, 1]], np.float32)}, "'x' is not finite in sample 1"),
    ],
)
def test_arrays_that_do_not_fit_are_told_with_what_was_expected(tmp_path: Path, arrays: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_npz(npz(tmp_path, **arrays), SPECS)


def test_objects_in_an_npz_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds an array of Python objects.*numpy\.stack"):
        read_npz(npz(tmp_path, x=np.array([{"a": 1}], dtype=object)), SPECS)


def test_an_archive_of_hardly_anything_but_repetition_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SUSPECT_BYTES", 1 << 20)  # the real one, a GiB, takes seconds to pack
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((1 << 18, 3), np.float32))
    with pytest.raises(OutOfResources, match=r"would unpack \d+-fold"):
        read_npz(tmp_path / "zeros.npz", SPECS)
    np.savez_compressed(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(1 << 17, 3)).astype(np.float32))
    assert len(read_npz(tmp_path / "data.npz", SPECS)["x"]) == 1 << 17


def test_something_else_is_not_an_npz(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.npz")
    for name, said in (("m.npz", "is no .npz"), ("absent.npz", "does not exist"), (".", "a directory")):
        with pytest.raises(BadInput, match=said):
            read_npz(tmp_path / name, SPECS)
