"""``rewrite`` as a person reads it and as JSON; ``why-not`` for every rule; what is told of rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from edgeattn.rewrite import ORDER
from edgeattn.rewrite._sample import graph, i64
from tests.conftest import edgeattn

pytestmark = pytest.mark.onnxruntime


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SE whose Linear layers are rewritten, and an attention that is in its final form already."""
    model = graph(
        """(float[batch,8,6,6] x, float[batch,6,8] h) => (float[batch,8,6,6] y, float[batch,6,8] z) {
            a = ReduceMean(x, hw)
            f = Flatten(a)
            d = Gemm <transB = 1> (f, w1)
            r = Relu(d)
            e = Gemm <transB = 1> (r, w2)
            s = Sigmoid(e)
            g = Unsqueeze(s, hw)
            y = Mul(x, g)
            t = Transpose <perm = [0, 2, 1]> (h)
            k = MatMul(h, t)
            p = Softmax <axis = 2> (k)
            z = MatMul(p, h) }""",
        w1=(4, 8), w2=(8, 4), hw=i64(2, 3),
    )  # fmt: skip
    for node in model.graph.node[:8]:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", "net", "net.gate", node.op_type]))
    path = tmp_path_factory.mktemp("gated") / "gated.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def told(gated: Path) -> str:
    done = edgeattn("rewrite", gated, "--dry-run", "-q")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in gated.parent.iterdir()) == ["gated.onnx"]
    return done.stdout


def test_a_rewrite_says_what_was_found_and_where(told: str, gated: Path) -> None:
    first = told.splitlines()[0]
    assert first == f"{gated}: found 1 se (net.gate); 1 mha (p)"
    rows = {cells[0]: cells for line in told.splitlines() if len(cells := _cells(line)) > 4}
    assert rows["lower_fc_to_conv"][1] == "1"
    assert rows["lower_fc_to_conv"][4] == "net.gate"
    assert re.fullmatch(r"\d+ -> \d+", rows["lower_fc_to_conv"][2])


def test_a_rewrite_says_what_changed_and_what_did_not(told: str) -> None:
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in told.splitlines() if re.match(r"\w+ {2,}", line))
    assert lines["nodes"] == "12 -> 10"
    assert lines["operators"].startswith("Conv 0 -> 2, Gemm 2 -> 0, ")
    assert lines["parameters"] == "64"
    assert lines["inputs"] == "as before: x: float32[batch, 8, 6, 6], h: float32[batch, 6, 8]"
    assert lines["outputs"] == "as before: y: float32[batch, 8, 6, 6], z: float32[batch, 6, 8]"
    assert re.search(r"^dry run, nothing was written; judged on 6 cases against the source graph: ", told, re.MULTILINE)


def test_attention_that_no_rule_changed_leads_to_why_not(told: str, gated: Path) -> None:
    hint = f"no rule changed 1 mha; `edgeattn why-not {gated}` tells what each rule looked for"
    assert told.splitlines()[-1] == hint


def test_the_same_facts_are_json(gated: Path, tmp_path: Path) -> None:
    done = edgeattn("rewrite", gated, "-o", tmp_path / "out.onnx", "--json", "-q")
    facts = json.loads(done.stdout)
    assert facts["out"] == str(tmp_path / "out.onnx")
    assert [r["rule"] for r in facts["rules"]] == list(ORDER)
    assert facts["nodes"] == [12, 10]
    assert facts["operators"]["histogram"]["Conv"] == 2
    assert facts["operators_before"]["histogram"]["Gemm"] == 2
    kinds = {a["kind"]: a for a in facts["attention"]}
    assert "lower_fc_to_conv" in kinds["se"]["rules"]
    assert kinds["mha"]["rules"] == []
    assert facts["parameters"] == {"main": [64, 64]}
    assert facts["cases"] == 6
    assert (tmp_path / "out.onnx").exists()


def test_nowhere_to_write_is_told_before_any_work(gated: Path) -> None:
    done = edgeattn("rewrite", gated)
    assert done.returncode == 2
    assert done.stderr == "edgeattn: error: --out: nowhere to write; give -o OUT.onnx, or --dry-run to look only\n"


def test_a_graph_without_anything_to_do_says_so(tmp_path: Path) -> None:
    onnx.save(graph("(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    done = edgeattn("rewrite", tmp_path / "m.onnx", "-o", tmp_path / "n.onnx", "-q")
    assert done.stdout == (
        f"{tmp_path}/m.onnx: no attention found\n"
        f"no rule found anything to do; wrote {tmp_path}/n.onnx, the graph as it was\n"
    )


def test_why_not_without_a_rule_has_a_line_for_each(gated: Path) -> None:
    found = {row["rule"]: row for row in json.loads(edgeattn("why-not", gated, "--json", "-q").stdout)}
    assert list(found) == list(ORDER)
    assert found["lower_fc_to_conv"]["fires"] == 1
    assert (found["merge_loop"]["fires"], found["merge_loop"]["misses"]) == (0, 1)
    assert found["merge_loop"]["nearest"]["reason"] == "a single graph has no steps to merge"
    shown = edgeattn("why-not", "--all", gated, "-q").stdout
    assert all(name in shown for name in ORDER)
    assert "a single graph has no steps to merge" in shown


def test_why_not_of_one_rule_names_the_module_of_each_miss(tmp_path: Path) -> None:
    model = graph("(float[batch,1] x) => (float[batch,5] y) { y = Expand(x, size) }", size=i64(1, 5))
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'head.grow', 'expand']")
    onnx.save(model, tmp_path / "m.onnx")
    done = edgeattn("why-not", "remove_expand", tmp_path / "m.onnx", "-q")
    assert done.stdout.splitlines()[0] == "remove_expand: would not fire; 1 near miss, the nearest first"
    assert "│ head.grow │ node_y    │ node_y    │ its result leaves the graph │" in done.stdout
    nowhere = edgeattn("why-not", "clamp_mask", tmp_path / "m.onnx", "-q").stdout
    assert nowhere == "clamp_mask: would not fire; no near miss: what it starts from is not in this graph\n"


def test_why_not_of_a_rule_needs_a_file() -> None:
    done = edgeattn("why-not", "remove_expand")
    assert done.returncode == 2
    assert done.stderr == (
        "edgeattn: error: why-not remove_expand: no file to look into; give one: edgeattn why-not remove_expand IN\n"
    )


def test_rules_are_listed_with_their_exactness_and_what_they_are_worth() -> None:
    rows = {row["rule"]: row for row in json.loads(edgeattn("list", "rules", "--json").stdout)}
    assert list(rows) == list(ORDER)
    assert rows["remove_expand"]["exactness"] == "bit-exact"
    assert rows["remove_expand"]["applied"] == "always"
    assert rows["restore_linear_before_reset"]["applied"] == "where PyTorch judges"
    measured = rows["hoist_keys"]["benefit"]["onnxruntime"]
    assert measured["speedup"] is None or measured["speedup"] > 0
    assert measured["threads"] >= 1
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", measured["day"])


def test_explain_draws_the_smallest_example_from_the_graphs() -> None:
    shown = edgeattn("explain", "remove-expand").stdout
    assert "  before\n    x → Shape → size\n    gate, size → Expand → wide\n    x, wide → Mul → y\n" in shown
    assert "  after\n    x, gate → Mul → y\n" in shown
    assert "Exactness: bit-exact. Opsets 11 to 26.\nApplied: always.\n" in shown
    facts = json.loads(edgeattn("explain", "remove_expand", "--json").stdout)
    assert facts["example"]["after"] == "x, gate → Mul → y"
    assert facts["opsets"] == [11, 26]
    assert facts["kind"] == "rewrite"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]
