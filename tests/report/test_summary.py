from __future__ import annotations

from edgeattn.report import markdown, wording
from edgeattn.report.schema import GateReport, ParityReport

from . import sample


def test_verdict_and_headline_figures_come_first():
    lines = markdown(sample.report()).splitlines()
    assert lines[0] == r"# ✅ cbam\_digits: pass"
    assert lines[2] == "Target **openvino:cpu**, precision **int8 + bf16** (asked for int8)."
    assert "**3.37× the speed of PyTorch (3.31–3.42×)**" in lines[4]
    assert "accuracy **98.47 %**, drop 0.14 pp" in lines[4]
    assert "**29.1 MB** from 112.4 MB" in lines[4]


def test_limits_stand_beside_observations():
    text = markdown(sample.report())
    assert "| ✅ pass | task\\_drop | ≤ 0.50 pp | 0.14 pp |" in text
    assert "| compile | mask | ⚠️ warn | 2.1e-02 | 24.9 dB |" in text


def test_a_dense_task_is_told_in_decibels_with_ssim_beside():
    gate = GateReport(name="task_min", limit=25.8, observed=25.8411, verdict="pass", unit="dB")
    lost = GateReport(name="task_drop", limit=0.05, observed=0.021, verdict="pass", unit="dB")
    text = markdown(sample.report(task=sample.dense_task(), gates=[gate, lost]))
    assert "PSNR **25.84 dB**, drop 0.012 dB" in text.splitlines()[4]
    assert (
        "superresolution, 42 held-out samples, PSNR: PyTorch 25.85 dB, engine 25.84 dB, "
        r"drop 0.012 dB (95 % interval \[0.004, 0.021\] dB). SSIM: PyTorch 0.7791, engine 0.7785. Limit 0.050 dB: "
    ) in text
    assert "| ✅ pass | task\\_min | ≥ 25.80 dB | 25.84 dB |" in text
    assert "| ✅ pass | task\\_drop | ≤ 0.050 dB | 0.021 dB |" in text


def test_a_loss_that_rounds_to_zero_has_no_sign():
    assert wording.lost(-5e-8, "dB") == "0.000 dB"
    assert wording.lost(-1e-9) == "0.00 pp"
    assert wording.lost_interval((-1e-9, 2e-9), "dB") == "[0.000, 0.000] dB"
    assert wording.lost(-0.004, "dB") == "-0.004 dB"


def test_inconclusive_is_visible_in_the_headline():
    text = markdown(sample.report(verdict="inconclusive", latency=sample.latency("inconclusive", why="too busy")))
    assert "# ❔" in text.splitlines()[0]
    assert "speed **not settled**" in text.splitlines()[4]
    assert "❔ inconclusive, too busy" in text


def test_names_from_a_users_file_stay_words():
    outputs = {"a|b](http://x)\n# head<script>": sample.output()}
    stage = sample.StageParity(stage="s", case_count=1, outputs=outputs)
    text = markdown(sample.report(parity=ParityReport.of([stage])))
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert "\n# head" not in text
    row = next(line for line in text.splitlines() if "a\\|b" in line)
    assert row.replace("\\|", "").count("|") == 10


def test_a_run_without_gates_says_that_nothing_was_judged():
    assert "No gate was asked" in markdown(sample.report(gates=()))


def test_a_gate_without_observation_says_missing():
    gate = GateReport(name="speedup", limit=2.0, verdict="fail", why="latency was not measured")
    assert "| ❌ fail | speedup | ≥ 2× | missing | latency was not measured |" in markdown(sample.report(gates=[gate]))
