from __future__ import annotations

import sys
import zipfile

import numpy as np
import pytest

from edgeattn import report as files
from edgeattn.errors import BadInput
from edgeattn.report.evidence import AttentionFigure

from . import sample


def test_what_was_written_comes_back_and_draws_the_same_page(tmp_path):
    attention = (sample.spatial(), sample.alignment())
    assert files.write(sample.report(), tmp_path, sample.raw(), attention) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md", "samples.npz"]
    report, raw, figures = files.load(tmp_path)
    assert report == sample.report()
    assert np.array_equal(raw.control_ms, sample.raw().control_ms)
    assert figures[1].source == attention[1].source
    assert np.array_equal(figures[0].image, attention[0].image)
    assert files.html(report, raw, figures) == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_without_evidence_comes_back_without(tmp_path):
    files.write(sample.report(), tmp_path)
    assert files.load(tmp_path)[1:] == (None, ())
    (tmp_path / "samples.npz").unlink()
    assert files.load(tmp_path)[1:] == (None, ())


def test_without_the_extra_the_page_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    said = files.write(sample.report(), tmp_path)
    assert said == ["no report.html: the package 'jinja2' is not installed; pip install 'edgeattn[report]'"]
    assert not (tmp_path / "report.html").exists()
    assert files.load(tmp_path)[0] == sample.report()


def _bytes(path):
    path.write_bytes(b"not a zip")


def _pickle(path):
    np.savez(path, attention=np.array([{"a": 1}], dtype=object))


def _no_json(path):
    np.savez(path, attention=np.frombuffer(b"{", np.uint8))


def _uneven(path):
    np.savez(path, **{f"latency.{c}": np.ones(i) for i, c in enumerate(("reference_ms", "engine_ms", "control_ms"), 1)})


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("attention.npy", bytes(300 << 20))


def _truncated(path):
    np.savez(path, attention=np.zeros(1000, np.uint8))
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_bytes, _pickle, _no_json, _uneven, _bomb, _truncated])
def test_evidence_that_is_none_is_refused_by_name(tmp_path, damage):
    (tmp_path / "report.json").write_text(sample.report().to_json(), encoding="utf-8")
    damage(tmp_path / "samples.npz")
    with pytest.raises(BadInput, match=r"samples\.npz: is not the evidence of a run"):
        files.load(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "pie", "reference": np.ones((2, 2)), "engine": np.ones((2, 2))},
        {"kind": "spatial", "reference": np.ones((2, 2)), "engine": np.ones((2, 2))},
        {"kind": "spatial", "reference": np.ones((2, 2)), "engine": np.ones((3, 2)), "image": np.ones((4, 4))},
        {
            "kind": "alignment",
            "reference": np.ones((1, 2)),
            "engine": np.ones((1, 2)),
            "source": ("a",),
            "target": ("b",),
        },
        {"kind": "alignment", "reference": np.ones(2), "engine": np.ones(2)},
    ],
)
def test_attention_that_cannot_be_drawn_is_refused_when_it_is_made(fields):
    with pytest.raises(ValueError, match=r"figure|shapes|tokens"):
        AttentionFigure(title="t", **fields)
