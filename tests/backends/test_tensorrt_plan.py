"""Plans are native code's own format: what is not exactly what was built never reaches the library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.backends import Options, _nvidia
from edgeattn.backends import _tensorrt_plan as plans
from edgeattn.errors import BadInput, EdgeattnError, EngineFailed, IntegrityError, Unsupported
from edgeattn.program import Case, Program, Reference
from tests.conftest import edgeattn
from tests.graphs import conv_net

pytestmark = pytest.mark.tensorrt_rtx
FEEDS = {"image": np.zeros((2, 3, 8, 8), np.float32)}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    out = tmp_path_factory.mktemp("plan")
    program = Program({"main": conv_net()}, reference=Reference("test", (Case("c", FEEDS),)))
    registry.get("backends", "tensorrt_rtx").compile(program, Options("sm86,sm120"), out)
    return (out / "main.plan").read_bytes(), (out / "main.plan.json").read_text()


@pytest.fixture
def plan(built: tuple[bytes, str], tmp_path: Path) -> Path:
    (tmp_path / "main.plan").write_bytes(built[0])
    (tmp_path / "main.plan.json").write_text(built[1])
    return tmp_path / "main.plan"


def _noted(file: Path, **changes: Any) -> None:
    note = file.with_name("main.plan.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), **changes}))


def _flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _another(file: Path) -> None:
    """A whole file with the right hash that is no plan."""
    data = b"GIF89a" + bytes(1000)
    file.write_bytes(data)
    _noted(file, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_the_header_says_what_the_file_beside_it_says(plan: Path) -> None:
    version = registry.get("backends", "tensorrt_rtx").probe().version
    data, known = plans.read(plan, "tensorrt_rtx", version)
    head = plans.header(data)
    assert head is not None
    assert (head.version, head.bytes, head.capabilities) == (version, len(data), ("sm86", "sm120"))
    assert known.profiles == ({"batch": (2, 2, 2)},)
    assert known.tensors == {"image": ("batch", 3, 8, 8), "features": ("batch", 16)}


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (_cut, IntegrityError, r"main.plan: has \d+ bytes of \d+ since it was built; take it from its source again"),
        (_flipped, IntegrityError, "main.plan: was altered since it was built"),
        (_another, IntegrityError, "is not the plan that the file beside it describes"),
        (lambda f: _noted(f, capabilities=["sm89"]), IntegrityError, "is not the plan that the file beside it"),
        (
            lambda f: _noted(f, version="1.6.0.1"),
            EngineFailed,
            "was built by tensorrt_rtx 1.6.0.1, and tensorrt_rtx 1.7",
        ),
        (lambda f: _noted(f, engine="tensorrt"), EngineFailed, "was built by tensorrt 1.7"),
        (lambda f: _noted(f, version=7), BadInput, "does not say what the plan is"),
        (lambda f: f.with_name("main.plan.json").write_text("{"), BadInput, "main.plan.json: does not say what"),
        (lambda f: f.with_name("main.plan.json").unlink(), BadInput, "main.plan: is a plan without main.plan.json"),
        (lambda f: f.unlink(), BadInput, "main.plan: no such file"),
    ],
)
def test_what_is_not_the_plan_that_was_built_is_refused_before_the_library_sees_it(
    spoil: Callable[[Path], object], kind: type[EdgeattnError], message: str, plan: Path
) -> None:
    spoil(plan)
    with pytest.raises(kind, match=message):
        registry.get("backends", "tensorrt_rtx").open(plan, Options("sm86,sm120"))


@pytest.mark.skipif(bool(_nvidia.capabilities()), reason="this machine has an NVIDIA GPU")
def test_a_plan_that_is_right_waits_for_its_gpu(plan: Path) -> None:
    with pytest.raises(
        Unsupported, match=r"TensorRT for RTX: this machine has no NVIDIA GPU; go on where sm86 or sm120 is"
    ):
        registry.get("backends", "tensorrt_rtx").open(plan, Options("sm86,sm120"))


def test_a_plan_for_another_gpu_is_told_which(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvidia, "capabilities", lambda: ("sm90",))
    message = "the GPU of this machine is sm90, and the engine is for sm86 and sm120; build it for sm90 too"
    with pytest.raises(Unsupported, match=message):
        registry.get("backends", "tensorrt_rtx").open(plan, Options("sm86,sm120"))


def test_a_plan_without_weights_is_given_only_those_it_was_built_from(plan: Path, tmp_path: Path) -> None:
    inside = tmp_path / "engine" / "main.plan"
    inside.parent.mkdir()
    (tmp_path / "portable").mkdir()
    (tmp_path / "portable" / "main.onnx").write_bytes(b"other weights")
    facts = plans.Facts("tensorrt", "10.3.0", "", 0, (), stripped=True, weights=hashlib.sha256(b"weights").hexdigest())
    with pytest.raises(IntegrityError, match="does not hold the weights that the plan was stripped of"):
        plans.weights(inside, facts)
    (tmp_path / "portable" / "main.onnx").write_bytes(b"weights")
    assert plans.weights(inside, facts) == tmp_path / "portable" / "main.onnx"


def test_inspect_tells_a_plan_from_one_that_was_altered(plan: Path) -> None:
    told = json.loads(edgeattn("inspect", plan, "--json").stdout)["plan"]
    assert told["for"] == "sm86, sm120"
    assert told["takes"] == "batch 2"
    _flipped(plan)
    done = edgeattn("inspect", plan)
    assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
    assert "was altered since it was built" in done.stderr
