"""The corpus of bad ONNX files at the real command line: exit code, one line that names the file, nothing written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("onnx")
from tests import corpus

# To a command a directory may be a program of several graphs; what it lacks then is named instead.
# Every case is judged in process by tests/test_preflight.py; a third of them through the command line keeps this short.
CASES = sorted(set(corpus.CASES) - {"file: directory"})[::3]
LIMIT_S = 60  # a start of Python on a busy machine included; the work itself is bounded in tests/test_preflight.py


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_ends_in_one_line_and_its_exit_code(name: str, tmp_path: Path) -> None:
    make, code, said = corpus.CASES[name]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    start = time.monotonic()
    command = [str(Path(sys.executable).with_name("edgeattn")), "rewrite", str(path), "-o", str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert time.monotonic() - start < LIMIT_S
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edgeattn: error: {path}: ")
    assert said in line
    assert sorted(tmp_path.rglob("*")) == before
