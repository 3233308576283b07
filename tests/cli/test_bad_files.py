"""The corpus of ONNX files at the command line: exit code, one line that names the file, nothing written, in time.

Where a file is refused before native code sees it, the commands run together in one process; what reaches an engine
has a worker of its own. The slow pass gives every command on every file its worker.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
from onnx import numpy_helper

from edgeattn.graphs import input_specs
from tests import corpus
from tests.graphs import conv_net
from tests.warm import Done, Warm

pytestmark = [pytest.mark.onnxruntime, pytest.mark.torch]  # the rewrites come with the exporter
LIMIT_S = 10  # of computing: the machine may be busy with other things
MEMORY = "EDGEATTN_MEMORY"
COMMANDS = ("rewrite", "recognise", "inspect", "why-not")
LARGE = {"200,000 nodes"}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm({MEMORY: "8G"}) as helper:
        yield helper


def command(name: str, path: Path, out: Path) -> list[object]:
    """Its arguments; ``rewrite`` writes ``out/out.onnx``."""
    rule = ["remove_expand"] if name == "why-not" else []
    return [name, *rule, path, *(["-o", out / "out.onnx"] if name == "rewrite" else []), "--quiet"]


def refused(done: Done, path: Path, code: int, said: str = "") -> None:
    """One line: the file, what is wrong with it, what to do."""
    assert done.code == code, done.stderr
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.split("\n")[:-1] if not line.startswith("edgeattn: warning: "))
    assert line.startswith(f"edgeattn: error: {path}: ")
    assert said in line
    assert line.isprintable()
    assert "; " in line.removeprefix(f"edgeattn: error: {path}: ")
    assert done.seconds < LIMIT_S


@pytest.mark.parametrize("name", corpus.CASES)
def test_a_bad_file_ends_in_one_line_and_its_exit_code(name: str, warm: Warm, tmp_path: Path) -> None:
    make, code, said = corpus.CASES[name]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if name == "file: directory":  # to a command it may be a program of several graphs
        said = "is a directory without wiring.json"
    for done in warm.run_together([command(c, path, tmp_path) for c in COMMANDS]):
        refused(done, path, code, said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", corpus.ENGINE)
def test_a_file_that_fails_in_an_engine_ends_in_one_line_too(name: str, warm: Warm, tmp_path: Path) -> None:
    make, code, said = corpus.ENGINE[name]
    path = make(tmp_path)
    refused(warm.run(*command("rewrite", path, tmp_path)), path, code, said)
    for looking in COMMANDS[1:]:
        done = warm.run(*command(looking, path, tmp_path))
        if done.code:  # looking at it may be too much, or not
            refused(done, path, done.code)
            assert done.code in (3, 4, 5)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors do not trap there")
@pytest.mark.parametrize("name", corpus.LETHAL)
@pytest.mark.parametrize("using", ["rewrite", "compile", "quantize", "parity", "bench"])
def test_a_file_that_kills_the_engine_is_told_by_name(name: str, using: str, warm: Warm, tmp_path: Path) -> None:
    make, said = corpus.LETHAL[name]
    path = make(tmp_path)
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((2, 4), np.float32))
    before = sorted(tmp_path.iterdir())
    more: dict[str, list[object]] = {
        "rewrite": ["-o", tmp_path / "out.onnx"],
        "compile": ["-o", tmp_path / "out", "-t", "onnxruntime"],
        "quantize": ["-o", tmp_path / "out.onnx", "--calib", data],
        "parity": [path],
        "bench": [path],
    }
    refused(warm.run(using, path, *more[using], "--quiet"), path, 4, said)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [name for name in corpus.GOOD if name not in LARGE])
def test_an_odd_but_right_file_goes_through_every_command(name: str, warm: Warm, tmp_path: Path) -> None:
    path = corpus.GOOD[name](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for used, done in zip(COMMANDS, warm.run_together([command(c, path, tmp_path) for c in COMMANDS]), strict=True):
        if name == "sparse initializer" and used in ("rewrite", "why-not"):
            refused(done, path, 4, "keeps 'w' as a sparse initializer")
            continue
        assert done.code == 0, done.stderr
        assert done.stderr == ""
        assert all(line.isprintable() for line in done.stdout.splitlines())
        assert done.seconds < LIMIT_S
        assert used in ("rewrite", "why-not") or done.stdout
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "out.onnx") == before


def test_weights_that_are_not_finite_are_warned_about_and_refused_in_int8(warm: Warm, tmp_path: Path) -> None:
    path, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    model = conv_net()
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(kernel).copy()
    values[0, 0, 0, 0] = np.nan
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    path.write_bytes(model.SerializeToString())
    (x,) = input_specs(model)
    np.savez(data, **{x.name: np.ones((2, *(d if isinstance(d, int) else 8 for d in x.shape[1:])), np.float32)})
    warning = f"edgeattn: warning: {path}: initializer '{kernel.name}' holds 1 NaN or infinite values\n"
    for done in warm.run_together([command(name, path, tmp_path) for name in COMMANDS]):
        assert (done.code, done.stderr) == (0, warning)
    done = warm.run("quantize", path, "-o", tmp_path / "int8.onnx", "--calib", data, "--quiet")
    refused(done, path, 3, f"weight '{kernel.name}' holds NaN or infinite values, which INT8 does not have")


@pytest.mark.long
@pytest.mark.parametrize("name", [*corpus.CASES, *corpus.GOOD])
def test_every_command_on_every_file_with_its_worker(name: str, warm: Warm, tmp_path: Path) -> None:
    make, code, said = corpus.CASES.get(name) or (corpus.GOOD[name], 0, "")
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for used in COMMANDS:
        done = warm.run(*command(used, path, tmp_path))
        if code:
            refused(done, path, code, "" if name == "file: directory" else said)
        elif name != "sparse initializer":
            assert done.code == 0, done.stderr
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "out.onnx") == before
