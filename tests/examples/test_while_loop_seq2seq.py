"""The translator whose loop lies in its graph: split, it reads the tutorial's held-out numbers as the tutorial does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeattn import backends, decode, storage, tasks
from edgeattn import rewrite as stage
from tests.conftest import ROOT

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.slow]
TUTORIAL = str(ROOT / "examples" / "tutorial_seq2seq.py")


def test_the_split_loop_reads_numbers_it_has_not_seen(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "examples" / "while_loop_seq2seq.py"), str(tmp_path / "numbers.onnx")]
    subprocess.run(script, check=True, capture_output=True, cwd=tmp_path)
    source = storage.with_reference(storage.load(tmp_path / "numbers.onnx"), backends.oracle)
    result = stage.rewrite(source, backends.oracle, also=["split_loop"])
    fired = {r["rule"]: r["count"] for r in result.history[-1].notes["rules"]}
    assert fired["split_loop"] == fired["hoist_keys"] == 1
    task = tasks.find(TUTORIAL)
    batch = next(task.test(200, 200))
    outputs = decode.run(backends.oracle(result), result.wiring, batch.feeds)
    assert task.score(outputs, batch.targets).mean() >= 0.97
    whole = backends.oracle(source)["main"].run(batch.feeds)["tokens"]
    np.testing.assert_array_equal(outputs["tokens"], whole[:, : outputs["tokens"].shape[1]])
