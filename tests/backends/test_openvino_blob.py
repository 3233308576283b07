"""Compiled blobs: used by request, for the machine they were made on, and only with the bytes that were written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from edgeattn import registry, runtime
from edgeattn.backends import Options
from edgeattn.bundle.pack import pack
from edgeattn.errors import IntegrityError, Unsupported
from edgeattn.program import Program
from tests.graphs import conv_net

pytestmark = pytest.mark.openvino
BACKEND = registry.get("backends", "openvino")
OPTIONS = Options(threads=1, settings={"blob": True})
FEEDS = {"image": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BACKEND.compile(Program({"main": conv_net()}), OPTIONS, tmp_path)
    return tmp_path


def test_gives_what_the_ir_gives_in_the_precision_that_was_asked_for(folder: Path) -> None:
    # Imported without its settings a blob computes FP32 graphs in BF16 on CPUs that have it: two digits are left.
    ir = BACKEND.open(folder / "main.xml", Options(threads=1)).run(FEEDS)
    np.testing.assert_array_equal(BACKEND.open(folder / "main.xml", OPTIONS).run(FEEDS)["features"], ir["features"])


def test_a_flipped_byte_is_refused_before_the_engine_sees_it(folder: Path) -> None:
    data = bytearray((folder / "main.blob").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "main.blob").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"main.blob: has changed since it was compiled; open it without the blob"):
        BACKEND.open(folder / "main.xml", OPTIONS)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("openvino", "2025.1.0", "another openvino: '2025.1.0', here"),
        ("device", "cpu + Pentium", r"another device: 'cpu \+ Pentium', here"),
        ("instruction sets", "", "another instruction sets"),
        ("ir", "", "another ir"),
    ],
)
def test_another_key_is_refused_and_the_ir_still_opens(part: str, value: str, message: str, folder: Path) -> None:
    note = folder / "main.blob.json"
    said = json.loads(note.read_text())
    said["key"][part] = value
    note.write_text(json.dumps(said))
    with pytest.raises(Unsupported, match=message) as raised:
        BACKEND.open(folder / "main.xml", OPTIONS)
    assert "\n" not in str(raised.value)
    assert BACKEND.open(folder / "main.xml", Options(threads=1)).run(FEEDS)


def test_other_settings_are_another_key(folder: Path) -> None:
    with pytest.raises(Unsupported, match="another settings"):
        BACKEND.open(folder / "main.xml", Options(threads=2, settings={"blob": True}))


def test_a_bundle_opens_its_ir_and_by_request_its_blob(tmp_path: Path) -> None:
    program = Program({"main": conv_net()})
    for name, options in (("with", OPTIONS), ("without", Options(threads=1))):
        out = tmp_path / name
        (out / "engine").mkdir(parents=True)
        pack(
            out, program=program, engine=BACKEND.compile(program, options, out / "engine"), model="m", target="openvino"
        )
    with runtime.load(tmp_path / "with") as plain, runtime.load(tmp_path / "with", blob=True) as quick:
        assert "engine/main.blob" in plain.manifest.files
        np.testing.assert_array_equal(plain.run(FEEDS)["features"], quick.run(FEEDS)["features"])
    with pytest.raises(Unsupported, match="has no compiled blob"):
        runtime.load(tmp_path / "without", blob=True)


@pytest.mark.parametrize("device", ["auto", "hetero:gpu,cpu"])
def test_a_blob_is_for_one_device(device: str) -> None:
    (refusal,) = [
        r for r in BACKEND.unsupported(Program({}), Options(device, settings={"blob": True})) if "blob" in r.reason
    ]
    assert refusal.reason == "a blob is for one device"
