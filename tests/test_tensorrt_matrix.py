"""The table of zoo members built for NVIDIA's GPUs: what counts as a surprise, and that work is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.tensorrt_matrix import BOTH, END, START, Built, Store, share, table, write

BUILT = Built("cbam_resnet50", "fp32", BOTH, bytes=100_000_000, seconds=1.5, peak_bytes=500_000_000, effective="fp32")
PACKED = Built("cbam_resnet50", "int8", BOTH, bytes=44_000_000, seconds=1.0, peak_bytes=400_000_000, effective="int8")
FAILED = Built("gpt_text", "fp16", "sm75", failed="the parser refuses node 'a|b'")
FORETOLD = Built("gpt_text", "fp32", BOTH, refused="no FP32 there", failed="no kernel")
TOO_STRICT = Built("gpt_text", "int8", BOTH, refused="no INT8 there", bytes=1)


@pytest.mark.parametrize(
    ("built", "surprise"),
    [
        (BUILT, ""),
        (FORETOLD, ""),
        (FAILED, "not foretold: the parser refuses node 'a|b'"),
        (TOO_STRICT, "refused, yet it builds: no INT8 there"),
    ],
)
def test_a_surprise_is_what_nobody_foretold(built: Built, surprise: str) -> None:
    assert built.surprise == surprise


def test_what_is_built_is_kept_and_drawn_into_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.json")
    for built in (BUILT, PACKED, FAILED, FORETOLD, TOO_STRICT):
        store.add(built)
    again = Store(tmp_path / "store.json")
    assert again.known == store.known
    assert share(again) == "CBAM-ResNet-50's INT8 engine is 0.440 of its FP32 engine (the limit is 0.55)."
    (tmp_path / "page.md").write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write(tmp_path / "page.md", table(["cbam_resnet50", "gpt_text"], again))
    page = (tmp_path / "page.md").read_text()
    assert "5 builds asked for: 3 built, 2 refused beforehand, 2 surprises." in page
    assert "| cbam_resnet50 | fp32 | 100.00 MB |  |  |  | 1.5 | 500 MB | fp32 |" in page
    assert "| gpt_text | fp32 | refused: no FP32 there |" in page
    assert page.startswith(f"before\n{START}\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
