"""The commands of the pages in docs/, run in order as a reader runs them, from the root of a checkout."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK, ROOT, UNTIMED

PAGES = {
    "your_model.md": 9,
    "decoders.md": 6,
    "quantize.md": 3,
    "latency.md": 4,
    "tensorrt.md": 3,
    "doctor.md": 3,
    "jetson.md": 3,
    "openvino.md": 5,
}  # commands shown
NEEDS = {"tensorrt.md": pytest.mark.tensorrt_rtx}


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def shown(page: str) -> list[str]:
    """The lines of a page's blocks that name no language: those are commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    return [line for language, block in blocks if not language for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_link_shown_exists(page: str) -> None:
    linked = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text(page))]
    assert [link for link in linked if not (ROOT / "docs" / link).exists()] == []
    assert [name for name in re.findall(r"examples/[\w.]+\w", text(page)) if not (ROOT / name).exists()] == []


@pytest.mark.torch
@pytest.mark.onnxruntime
@pytest.mark.openvino
@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param(page, marks=NEEDS.get(page, ())) for page in PAGES])
def test_every_command_shown_does_what_it_says(page: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = shown(page)
    assert len(commands) == PAGES[page]
    for command in commands:
        program, *words = shlex.split(command)
        words = ["-m", "edgeattn", *words, *["--force"] * ("-o" in words)] if program == "edgeattn" else words
        words += (*QUICK, *UNTIMED) if "run" in words[:3] else ()
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}{done.stdout}"
