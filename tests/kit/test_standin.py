"""The scripts' way through TensorRT and CUDA, against stand-ins that speak their interfaces (see ``standin/``)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeattn import returned
from edgeattn.kit.board.files import sha256
from tests.kit.kits import decoder, make, network, run

GATES = {"precision": True, "parity": True, "size_ratio": 2.0}
HERE = Path(__file__).parent / "standin"
pytestmark = [
    pytest.mark.onnxruntime,
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for the stand-in of libcudart"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with ``tensorrt`` and ``libcudart.so``."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copy(HERE / "tensorrt.py", folder)
    command = ["cc", "-shared", "-fPIC", "-o", folder / "libcudart.so", HERE / "cudart.c"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_a_kit_is_built_run_judged_and_timed_and_comes_back(tmp_path: Path, packages: Path) -> None:
    kit = make(network(), tmp_path / "kit", gates=GATES, reference_bytes=20_000)
    done = run(kit, "build", packages=packages)
    assert done.returncode == 0, done.stderr
    built = json.loads((kit / "plans" / "built.json").read_text())
    assert (built["version"], built["typed"]) == ("10.3.0.30", True)
    done = run(kit, "verify", "--pairs", "20", packages=packages)
    assert done.returncode == 75, done.stderr  # this is no Jetson
    found = returned.read(kit)
    assert {g.name: g.verdict for g in found.gates} == {
        "board": "inconclusive",
        "precision": "pass",
        "parity": "pass",
        "size_ratio": "pass",
    }
    assert found.board is not None
    assert (found.board.version_fits, found.board.rehearsal, found.board.capability) == (True, False, "8.7")
    assert found.execution.ran
    assert found.target.effective == "jetson:sm87 10.3.0.30"
    assert (found.precision.effective, found.precision.share) == ("fp32", 1.0)
    assert set(found.board.engines) == {"main"}


def test_a_second_build_starts_from_the_timing_cache_unless_that_was_altered(tmp_path: Path, packages: Path) -> None:
    kit = make(network(), tmp_path / "kit")
    assert run(kit, "build", packages=packages).returncode == 0
    done = run(kit, "build", packages=packages)
    assert "kernels are chosen by plans/timing.cache" in done.stdout
    assert (kit / "plans" / "timing.cache").read_bytes() == b"timedtimed"
    (kit / "plans" / "timing.cache").write_bytes(b"other")
    assert "kernels are timed again" in run(kit, "build", packages=packages).stdout
    assert (kit / "plans" / "timing.cache").read_bytes() == b"timed"


def test_a_decoders_state_goes_round_through_the_device(tmp_path: Path, packages: Path) -> None:
    kit = make(decoder(), tmp_path / "kit")
    done = run(kit, "verify", "--pairs", "20", packages=packages)  # builds first
    assert done.returncode == 75, done.stderr
    found = returned.read(kit)
    assert {out.verdict for out in found.parity.outputs.values()} == {"pass"}
    assert found.board is not None
    assert set(found.board.engines) == {"encoder", "step"}


def test_every_case_finds_the_bucket_of_sizes_that_holds_it(tmp_path: Path, packages: Path) -> None:
    kit = make(network(), tmp_path / "kit", profiles=({"batch": (1, 1, 1)}, {"batch": (2, 2, 4)}))  # cases of 1 and 2
    done = run(kit, "verify", "--pairs", "20", packages=packages)
    assert done.returncode == 75, done.stderr
    assert returned.read(kit).parity.outputs["features"].verdict == "pass"
    narrow = make(network(), tmp_path / "narrow", profiles=({"batch": (1, 1, 1)},))
    done = run(narrow, "verify", "--pairs", "20", packages=packages)
    assert done.returncode == 3
    assert "input 'image' of shape (2, 3, 8, 8) lies outside the profile it was built for" in done.stderr


def test_a_plan_that_was_altered_is_built_again(tmp_path: Path, packages: Path) -> None:
    kit = make(network(), tmp_path / "kit")
    assert run(kit, "build", packages=packages).returncode == 0
    (kit / "plans" / "main.plan").write_bytes(b"not a plan")
    done = run(kit, "verify", "--pairs", "20", packages=packages)
    assert (done.returncode, "building main" in done.stdout) == (75, True)


def test_another_tensorrt_is_refused_and_any_version_goes_on(tmp_path: Path, packages: Path) -> None:
    kit = make(network(), tmp_path / "kit", device="jp7.1")
    done = run(kit, "build", packages=packages)
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 1)
    assert "TensorRT 10.3.0.30 is here, and this kit was made for 10.13 (jetson:jp7.1)" in done.stderr
    assert not (kit / "plans").exists()
    assert run(kit, "build", "--any-version", packages=packages).returncode == 0


def test_a_builder_that_refuses_is_told_in_its_own_words(tmp_path: Path, packages: Path) -> None:
    kit = make(network(), tmp_path / "kit")
    before = sha256(kit / "kit.json")
    told = json.loads((kit / "kit.json").read_text())
    told["graphs"]["main"]["profiles"] = {}
    (kit / "kit.json").write_text(json.dumps(told))
    (kit / "MANIFEST").write_text((kit / "MANIFEST").read_text().replace(before, sha256(kit / "kit.json")))
    done = run(kit, "build", packages=packages)
    assert done.returncode == 4
    assert "main.onnx: was not built: network has dynamic inputs, but no optimization profile" in done.stderr
    assert not [p for p in kit.iterdir() if p.name.startswith((".tmp", "plans"))]
