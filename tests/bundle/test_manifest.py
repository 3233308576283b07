"""A manifest is read strictly, and a bundle is refused for any difference, before an engine sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeattn.bundle import manifest as manifests
from edgeattn.bundle.manifest import FileEntry, GraphEntry, Manifest, SelfTestEntry, Tolerance
from edgeattn.errors import BadInput, IntegrityError
from edgeattn.program import Stop, TensorSpec, Wiring

FILES = {"engine/encoder.onnx": b"a", "engine/step.onnx": b"b", "assets/labels.txt": b"cat\n", "selftest.npz": b"npz"}


def make(folder: Path) -> Path:
    """A bundle whose bytes match its manifest; the files are not engines, which verifying never needs."""
    bundle = folder / "bundle"
    for name, data in FILES.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(data)
    x, h = TensorSpec("x", "float32", ("batch", 3)), TensorSpec("h", "float32", ("batch", 4))
    token, logits = TensorSpec("token", "int64", ("batch",)), TensorSpec("logits", "float32", ("batch", 9))
    manifest = Manifest(
        schema_version=1, edgeattn="0.1.0", model="m", task="dates", target="onnxruntime:cpu", backend="onnxruntime",
        device="cpu", precision={"requested": "fp32", "effective": "fp32"},
        graphs={
            "encoder": GraphEntry("engine/encoder.onnx", "engine/encoder.onnx", (x,), (h,)),
            "step": GraphEntry("engine/step.onnx", "engine/step.onnx", (token, h), (logits, h)),
        },
        wiring=Wiring({"step.h": "encoder.h"}, {"step.h": "step.h"}, Stop("step.token", "step.logits", 0, 1, 9)),
        options={"device": "cpu", "precision": "fp32", "threads": 0},
        engine={"step": {"device": "cpu", "precision": {"label": "fp32", "int8_share": 0.0}}},
        created_with={"python": "3.11"}, assets={"labels.txt": "assets/labels.txt"},
        selftest=SelfTestEntry("selftest.npz", ("x",), ("tokens",), False, {"tokens": Tolerance(0, 0)}),
        files={name: manifests.entry(bundle / name) for name in FILES},
    )  # fmt: skip
    (bundle / "manifest.json").write_text(manifest.dumps())
    return bundle


def test_a_manifest_reads_back_equal(tmp_path: Path) -> None:
    manifest = manifests.verify(make(tmp_path))
    assert manifests.parse(manifest.dumps()) == manifest
    assert manifest.graphs["step"].inputs[1] == TensorSpec("h", "float32", ("batch", 4))
    assert manifest.wiring is not None
    assert manifest.wiring.loop == "step"


def test_every_flipped_byte_is_found_and_its_file_named(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    for name, data in FILES.items():
        for i in range(len(data)):
            (bundle / name).write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
            with pytest.raises(IntegrityError, match="has changed: sha256") as e:
                manifests.verify(bundle)
            assert e.value.where == str(bundle / name)
            assert e.value.exit_code == 6
        (bundle / name).write_bytes(data)
    manifests.verify(bundle)


def test_a_flipped_byte_of_the_manifest_itself_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = make(tmp_path) / "manifest.json"
    data = path.read_bytes()
    for i in range(0, len(data), 4):
        flipped = data[:i] + bytes([data[i] ^ (1 << i // 4 % 7)]) + data[i + 1 :]
        with pytest.raises(IntegrityError) as e:
            manifests.parse(flipped.decode(), str(path))
        assert e.value.where == str(path)


def _truncate(bundle: Path) -> None:
    (bundle / "assets/labels.txt").write_bytes(b"ca")


def _hollow(bundle: Path) -> None:
    (bundle / "assets/labels.txt").unlink()


def _link(bundle: Path) -> None:
    outside = bundle.parent / "labels.txt"
    outside.write_bytes(FILES["assets/labels.txt"])
    (bundle / "assets/labels.txt").unlink()
    (bundle / "assets/labels.txt").symlink_to(outside)


def _linked_folder(bundle: Path) -> None:
    (bundle / "assets").rename(bundle.parent / "assets")
    (bundle / "assets").symlink_to(bundle.parent / "assets")


def _fifo(bundle: Path) -> None:
    (bundle / "assets/labels.txt").unlink()
    os.mkfifo(bundle / "assets/labels.txt")


def _linked_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "m.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "m.json")


def _fifo_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")


DISK: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "has 2 bytes, the manifest says 4"),
    "missing file": (_hollow, "is missing"),
    "extra file": (lambda b: (b / "engine/x.so").write_bytes(b""), "is not in the manifest"),
    "extra file on top": (lambda b: (b / "manifest.json.bak").write_bytes(b""), "is not in the manifest"),
    "extra folder": (lambda b: (b / "hooks").mkdir(), "is a directory the manifest lacks"),
    "symlink": (_link, "is a link or special file"),
    "symlink to a folder": (_linked_folder, "is a link or special file"),
    "fifo": (_fifo, "is a link or special file"),
    "manifest is a link": (_linked_manifest, "is a symbolic link, not a file"),
    "manifest is a fifo": (_fifo_manifest, "is a FIFO"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "has no manifest.json"),
    "empty manifest": (lambda b: (b / "manifest.json").write_bytes(b""), "is not JSON"),
    "binary manifest": (lambda b: (b / "manifest.json").write_bytes(b"\xff\xfe"), "is not UTF-8"),
}


@pytest.mark.parametrize("name", DISK)
def test_a_bundle_that_differs_on_disk_is_refused(name: str, tmp_path: Path) -> None:
    bundle = make(tmp_path)
    damage, what = DISK[name]
    damage(bundle)
    with pytest.raises(IntegrityError) as e:
        manifests.verify(bundle)
    assert what in e.value.what
    assert str(bundle) in e.value.where
    assert "\n" not in str(e.value)


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for key in path[:-1]:
            raw = raw[key]
        del raw[path[-1]]

    return change


SHA = {"sha256": "0" * 64, "bytes": 1}
SPEC = {"name": "x", "dtype": "float32", "shape": [1]}
KEYS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "missing key": (drop("precision"), "'manifest' lacks 'precision'"),
    "unknown key": (put("plugin", value="x.so"), "has the unknown key 'plugin'"),
    "unknown key inside": (put("graphs", "step", "library", value="x"), "has the unknown key 'library'"),
    "future schema": (put("schema_version", value=2), "has schema version 2, this edgeattn reads 1"),
    "schema 0": (put("schema_version", value=0), "has schema version 0"),
    "schema as text": (put("schema_version", value="1"), "has schema version 1"),
    "schema true": (put("schema_version", value=True), "has schema version True"),
    "absolute path": (put("files", "/etc/passwd", value=SHA), "not a plain path"),
    "parent path": (put("files", "engine/../../x", value=SHA), "not a plain path"),
    "backslash": (put("files", "..\\x", value=SHA), "not a plain path"),
    "empty path": (put("files", "", value=SHA), "not a plain path"),
    "double slash": (put("files", "a//b", value=SHA), "not a plain path"),
    "control character": (put("files", "a\nb", value=SHA), "not a plain path"),
    "bidi character": (put("files", "a\u202eb", value=SHA), "not a plain path"),
    "case-fold duplicate": (put("files", "ASSETS/Labels.txt", value=SHA), "one file on some systems"),
    "unicode duplicate": (put("files", "engine/STEP.onnx", value=SHA), "one file on some systems"),
    "the manifest itself": (put("files", "manifest.json", value=SHA), "one file on some systems"),
    "graph file elsewhere": (put("graphs", "step", "file", value="../x.onnx"), "not a plain path"),
    "graph file not listed": (put("graphs", "step", "file", value="engine/y.onnx"), "not among its files"),
    "asset elsewhere": (put("assets", "labels.txt", value="/etc/passwd"), "not a plain path"),
    "no sha": (put("files", "selftest.npz", "sha256", value=""), "has no sha256"),
    "negative bytes": (put("files", "selftest.npz", "bytes", value=-1), "not a whole number"),
    "bytes true": (put("files", "selftest.npz", "bytes", value=True), "not a whole number"),
    "no graphs": (put("graphs", value={}), "has no graphs"),
    "graphs a list": (put("graphs", value=[]), "'graphs' is not an object"),
    "no wiring": (put("wiring", value=None), "must have a wiring exactly if"),
    "edge end": (put("wiring", "feeds", value={"step": "encoder.h"}), "not GRAPH.TENSOR"),
    "loop graph": (put("wiring", "stop", "token", value="decoder.token"), "which is not a graph"),
    "first token": (put("wiring", "stop", "first", value="logits"), "the edge end 'logits', which is not GRAPH.TENSOR"),
    "endless": (put("wiring", "stop", "max_steps", value=0), "at least 1"),
    "tensor twice": (put("graphs", "step", "inputs", value=[SPEC, SPEC]), "names a tensor twice"),
    "negative dim": (put("graphs", "step", "inputs", value=[{**SPEC, "shape": [-1]}]), "not a whole number"),
    "precision": (put("precision", value={"requested": "int8"}), "which precision was requested"),
    "tolerance": (put("selftest", "tolerance", "tokens", "atol", value=-1.0), "not a number of at least 0"),
    "no digest": (drop("digest"), "lacks 'digest'"),
    "another digest": (put("digest", value="0" * 64), "its digest is not that of its content"),
    "another model": (put("model", value="n"), "its digest is not that of its content"),
    "model a number": (put("model", value=3), "'model' is not text"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_a_manifest_that_is_not_strictly_right_is_refused(name: str, tmp_path: Path) -> None:
    path = make(tmp_path) / "manifest.json"
    raw = json.loads(path.read_text())
    change, what = KEYS[name]
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(IntegrityError) as e:
        manifests.verify(path.parent)
    assert what in str(e.value)
    assert e.value.where == str(path)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"model": "m"', '"model": "m", "model": "n"', "has the key 'model' twice"),
        ('"atol": 0', '"atol": NaN', "holds NaN"),
        ('"atol": 0', '"atol": 1e999', "not a number of at least 0"),
        ('"device": "cpu"', '"device": ' + "[" * 100_000, "is not JSON"),
        ('"bytes": 1', '"bytes": ' + "9" * 5000, "is not JSON"),
    ],
)
def test_json_that_parsers_read_differently_is_refused(old: str, new: str, what: str, tmp_path: Path) -> None:
    path = make(tmp_path) / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(IntegrityError) as e:
        manifests.verify(path.parent)
    assert what in str(e.value)


def test_what_is_not_a_directory_is_a_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, what in ((tmp_path / "no", "no such bundle"), (tmp_path / "file", "is not a bundle directory")):
        with pytest.raises(BadInput, match=what):
            manifests.verify(path)


def test_a_manifest_cannot_hold_a_number_json_lacks(tmp_path: Path) -> None:
    manifest = manifests.verify(make(tmp_path))
    broken = replace(manifest, engine={"x": float("nan")}, files={**manifest.files, "y": FileEntry("0" * 64, 1)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.dumps()
