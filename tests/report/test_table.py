from edgeattn.report import table
from edgeattn.report.sections import Precision, SizeReport
from tests.report import sample


def small(model="net", target="onnxruntime", precision="fp32", **changes):
    exact = sample.output(max_abs=2e-6, limit="error against float64")
    usual = {
        "model": model,
        "target": sample.Target(requested=target, effective=f"{target} 1"),
        "precision": Precision(
            requested=precision, effective=precision, int8_share=0.25 if precision == "int8" else 0.0
        ),
        "parity": sample.ParityReport(outputs={"logits": exact}),
        "size": SizeReport(reference_bytes=2_000_000, engine_bytes=1_000_000),
    }
    return sample.report(**{**usual, **changes})


def test_rows_are_sorted_by_model_target_and_precision():
    rows = table.rows([small("b"), small("a", "openvino"), small("a", precision="int8"), small("a")])
    keys = [f"{r['model']} {r['target']} {r['precision']}" for r in rows]
    assert keys == ["a onnxruntime fp32", "a onnxruntime int8", "a openvino fp32", "b onnxruntime fp32"]


def test_a_row_says_what_was_compared_scored_and_saved():
    (row,) = table.rows([small()])
    assert row["parity with PyTorch"] == "logits: 2.0e-06"
    assert row["task"] == "digits, accuracy of 720"
    assert (row["PyTorch"], row["engine"]) == ("98.61 %", "98.47 %")
    assert row["size"] == "2.0 MB → 1.0 MB"
    assert row["in INT8"] == ""


def test_a_precision_that_does_not_run_as_asked_is_said():
    (row,) = table.rows([sample.report(precision=Precision(requested="int8", effective="fp32"))])
    assert row["precision"] == "int8 (runs fp32)"


def test_int8_parity_is_told_by_its_signal_and_the_worst_output():
    good = sample.output(max_abs=0.1, sqnr_db=38.0, limit="SQNR ≥ 30 dB")
    poor = sample.output(max_abs=0.01, sqnr_db=31.5, limit="SQNR ≥ 30 dB")
    (row,) = table.rows([small(parity=sample.ParityReport(outputs={"a": good, "b": poor}))])
    assert row["parity with PyTorch"] == "b: 31.5 dB"


def test_markdown_names_the_machine_once_and_has_a_line_a_run():
    text = table.markdown([small("b"), small("a")])
    assert text.startswith("2 runs on ")
    assert text.count("\n| a |") == text.count("\n| b |") == 1


def test_text_from_users_cannot_break_the_table():
    assert "a\\|b" in table.markdown([small("a|b")])
