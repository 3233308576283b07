"""Every file of the corpus gets one line, the right exit code and a name for its fault, in time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper

from edgeattn.errors import EdgeattnError, printable
from edgeattn.preflight import check_model, read_model
from tests import corpus

LIMIT_S = 10
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", corpus.CASES)
def test_a_bad_file_gets_its_exit_code_and_one_line_that_names_the_fault(name: str, tmp_path: Path) -> None:
    make, code, said = corpus.CASES[name]
    path = make(tmp_path)
    before = sorted(p for p in tmp_path.rglob("*"))
    start = time.monotonic()
    with pytest.raises(EdgeattnError) as e:
        read_model(path)
    assert time.monotonic() - start < LIMIT_S
    assert said in e.value.what or said in e.value.hint
    assert e.value.exit_code == code
    assert e.value.where == str(path)
    line = str(e.value)
    assert line == printable(line, 2000)  # one line, no control characters
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", corpus.GOOD)
def test_an_odd_but_right_file_is_read_without_a_warning(name: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    path = corpus.GOOD[name](tmp_path)
    start = time.process_time()  # computing only: the machine may be busy with other things
    model = read_model(path, warn=warnings.append)
    assert time.process_time() - start < LIMIT_S
    assert model.graph.output
    assert warnings == []


def test_external_data_is_read_into_the_model(tmp_path: Path) -> None:
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    path = corpus.beside(lambda d: (d / "w.bin").write_bytes(bytes(8) + values.tobytes()), offset="8", length="64")(
        tmp_path
    )
    (tensor,) = read_model(path).graph.initializer
    assert not tensor.external_data
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), values)


def test_all_locations_are_checked_before_the_first_is_opened(tmp_path: Path) -> None:
    def build(tensor: onnx.TensorProto) -> onnx.ModelProto:
        return corpus.model(constants=[tensor, corpus.outside("v", location="../secret.bin")])

    path = corpus.beside(build=build)(tmp_path)
    opened: list[str] = []
    body = "import sys; sys.addaudithook(lambda e, a: e == 'open' and print(a[0]))\n"
    body += "from pathlib import Path; from edgeattn.preflight import read_model; read_model(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", body, path], cwd=ROOT, capture_output=True, text=True, check=False)
    opened = [line for line in done.stdout.splitlines() if str(tmp_path) in line or "bin" in Path(line).suffix]
    assert "IntegrityError" in done.stderr
    assert opened == [str(path)]


def test_external_data_beyond_the_budget_is_refused_before_reading(tmp_path: Path) -> None:
    path = corpus.beside()(tmp_path)
    with pytest.raises(EdgeattnError, match="more than the limit"):
        read_model(path, max_bytes=path.stat().st_size + 63)
    read_model(path, max_bytes=path.stat().st_size + 64)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_warned_about(kind: type, bad: float) -> None:
    values = np.zeros((4, 4), kind)
    values[1, 2] = bad
    model = corpus.model(constants=[numpy_helper.from_array(values, "w")])
    assert check_model(model, "m.onnx") == ["initializer 'w' holds 1 NaN or infinite values"]


def test_bfloat16_weights_that_are_not_finite_are_warned_about() -> None:
    tensor = onnx.TensorProto(name="b", dims=[3], data_type=16, raw_data=b"\x80\x3f\x80\x7f\xc0\x7f")  # 1, inf, NaN
    model = corpus.model(constants=[corpus.weight(), tensor])
    assert check_model(model, "m.onnx") == ["initializer 'b' holds 2 NaN or infinite values"]


def test_a_model_in_memory_may_not_point_to_files() -> None:
    with pytest.raises(EdgeattnError, match="keeps its data in another file") as e:
        check_model(corpus.model(constants=[corpus.outside(location="w.bin")]), "m.onnx")
    assert e.value.exit_code == 3


def test_an_unreadable_file_is_a_bad_input(tmp_path: Path) -> None:
    path = corpus.GOOD["plain"](tmp_path)
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything: look with the eyes of nobody
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    else:
        become = ""
    body = (
        "import sys\nfrom pathlib import Path\nfrom edgeattn.errors import BadInput\n"
        "from edgeattn.preflight import read_model\nimport onnx, google.protobuf.message\n"
        + become
        + "try:\n    read_model(Path(sys.argv[1]))\nexcept BadInput as e:\n    print(e.what)"
    )
    done = subprocess.run([sys.executable, "-c", body, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "cannot be read: Permission denied\n", done.stderr


def test_no_damaged_file_gets_anything_but_one_of_our_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    seeds = []
    for name, make in corpus.GOOD.items():
        if "external" not in name and "200" not in name and "KiB" not in name:
            (tmp_path / name).mkdir()
            seeds.append(make(tmp_path / name).read_bytes())
    path = tmp_path / "damaged.onnx"
    refused = 0
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 3))):
            i = rng.randrange(len(data))
            data[i : i + rng.choice((0, 1, 1, 4))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        path.write_bytes(data)
        try:
            read_model(path)
        except EdgeattnError as e:
            refused += 1
            if e.exit_code not in (3, 4, 5, 6):
                pytest.fail(f"{e.exit_code}: {e}")
    assert refused > 500  # most changes hit weights or names, which may be anything


def test_preflight_needs_no_engine_and_no_torch(tmp_path: Path) -> None:
    path = corpus.GOOD["plain"](tmp_path)
    body = (
        "import sys\nfrom pathlib import Path\nfrom edgeattn.preflight import read_model\n"
        "read_model(Path(sys.argv[1]))\n"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'onnxscript') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", body, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_a_dimension_of_minus_one_is_a_dynamic_one(tmp_path):
    made = corpus.model(inputs=[corpus.value("x", [-1, 4])], outputs=[corpus.value("y", [-1, 4])])
    onnx.save(made, tmp_path / "paddle.onnx")
    read = read_model(tmp_path / "paddle.onnx")
    assert not read.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    assert read.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 4
