"""The table of several targets: its exit code, and its forms."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgeattn.errors import BadInput
from edgeattn.report import matrix
from edgeattn.report.matrix import Matrix, Named, Part


def part(word: str, code: int) -> Part:
    """A part that was judged with a verdict, or else ended with a status."""
    status = {"refused": "refused", "failed": "failed", "built": "built"}.get(word, "judged")
    return Part.model_validate(
        {
            "name": f"{word}.fp32",
            "target": Named(requested=f"{word}:cpu", effective=None),
            "precision": Named(requested="fp32", effective=None),
            "status": status,
            "verdict": None if status in ("refused", "failed") else word,
            "reason": "" if word == "pass" else f"why <{word}> | `it` is so",
            "hint": "",
            "exit_code": code,
        }
    )


PASS, BUILT, FAIL, UNSURE = part("pass", 0), part("built", 0), part("fail", 1), part("inconclusive", 75)
REFUSED, DEAD, BUG = part("refused", 4), part("failed", 5), part("failed", 70)


@pytest.mark.parametrize(
    ("parts", "allow", "code"),
    [
        ([PASS, BUILT], False, 0),
        ([PASS, UNSURE], False, 75),
        ([UNSURE, FAIL], False, 1),
        ([FAIL, REFUSED], False, 4),
        ([FAIL, REFUSED], True, 1),
        ([PASS, REFUSED], True, 0),
        ([REFUSED], True, 4),  # nothing was built: allowed or not, that is no success
        ([REFUSED, DEAD], True, 5),
        ([DEAD, BUG, PASS], False, 70),
        ([part("failed", 139), FAIL], False, 139),  # a signal's
    ],
)
def test_the_exit_code_is_the_worst_of_the_parts(parts: list[Part], allow: bool, code: int) -> None:
    assert matrix.exit_code(parts, allow) == code


@pytest.mark.parametrize(("allow", "failures"), [(False, 2), (True, 1)])
def test_junit_fails_a_refusal_only_where_the_command_does(allow: bool, failures: int) -> None:
    found = Matrix(model="m", allow_refused=allow, parts=(PASS, BUILT, FAIL, REFUSED))
    root = ET.fromstring(matrix.junit(found))
    assert root.attrib["failures"] == str(failures)
    assert [case.attrib["name"] for case in root.iter("testcase")] == [p.name for p in found.parts]
    skipped = [case.attrib["name"] for case in root.iter("testcase") if case.find("skipped") is not None]
    assert skipped == ["built.fp32"] + ["refused.fp32"] * allow  # built is no pass


def test_markdown_and_page_show_reasons_as_plain_words() -> None:
    pytest.importorskip("jinja2")
    found = Matrix(model="m", parts=(PASS, REFUSED))
    text = matrix.markdown(found)
    assert text.startswith("# m: 2 parts: 1 pass, 1 refused\n")
    assert "| refused:cpu | fp32 | ⛔ refused: why \\<refused\\> \\| \\`it\\` is so |" in text
    page = matrix.html(found)
    assert "why &lt;refused&gt;" in page
    assert 'href="pass.fp32/report.html"' in page
    assert "refused.fp32/report.html" not in page


def test_what_was_written_is_read_again_and_what_is_no_matrix_is_refused(tmp_path: Path) -> None:
    found = Matrix(model="m", parts=(PASS, REFUSED))
    (tmp_path / "matrix.json").write_text(found.to_json())
    assert Matrix.read(tmp_path / "matrix.json") == found
    altered = json.loads(found.to_json())
    altered["parts"][0]["status"] = "fine"
    for text, told in ((json.dumps(altered), "'parts.0.status'"), ("{}", "is no matrix of schema_version 1")):
        (tmp_path / "matrix.json").write_text(text)
        with pytest.raises(BadInput, match=told):
            Matrix.read(tmp_path / "matrix.json")
