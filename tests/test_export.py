from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from edgeattn import backends, decode, graphs, theirs
from edgeattn.errors import BadInput, Unsupported, UsageError
from edgeattn.export import OPSETS, export
from edgeattn.models import GraphSource, Source
from edgeattn.program import TensorSpec

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]
HERE = Path(__file__)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, image):
        x = torch.relu(self.norm(self.conv(image)))
        return self.head(x.mean((2, 3))), x


def source(module: nn.Module, shape=("batch", 3, "height", "width"), outputs=("logits", "map")) -> Source:
    return Source({"main": GraphSource(module, (TensorSpec("image", "float32", shape),), outputs)})


@pytest.mark.parametrize("opset", OPSETS)
def test_exports_at_every_opset_and_keeps_pytorchs_numbers_at_both_sizes(opset: int) -> None:
    program = export(source(Net()), opset=opset)
    assert [o.version for o in program.graphs["main"].opset_import if o.domain == ""] == [opset]
    sessions = backends.oracle(program)
    for case in program.reference.cases:
        outputs = decode.run(sessions, None, case.feeds)
        for name, expected in case.outputs.items():
            # FP32 sums of 27 products; `large` inputs reach 64 standard deviations.
            np.testing.assert_allclose(outputs[name], expected, atol=1e-6 * max(1.0, np.abs(expected).max()), rtol=1e-5)


def test_declares_the_dynamic_dimensions_of_outputs_by_the_inputs_names() -> None:
    model = export(source(Net())).graphs["main"]
    assert [str(s) for s in graphs.output_specs(model)] == [
        "logits: float32[batch, 4]",
        "map: float32[batch, 8, height, width]",
    ]


def test_the_oracle_holds_eager_outputs_in_both_dtypes_at_two_sizes() -> None:
    reference = export(source(Net())).reference
    assert reference.origin == "pytorch eager"
    assert {c.feeds["image"].shape for c in reference.cases} == {(1, 3, 224, 224), (2, 3, 192, 160)}
    assert {c.golden["logits"].dtype for c in reference.cases} == {np.dtype(np.float64)}
    assert {c.outputs["logits"].dtype for c in reference.cases} == {np.dtype(np.float32)}


def test_the_same_seed_gives_the_same_program() -> None:
    one, two = (export(source(Net(), ("batch", 3, 8, 8)), seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.reference.cases[0].feeds["image"], two.reference.cases[0].feeds["image"])
    assert one.digest() == two.digest()


def test_the_record_says_what_exported_it() -> None:
    (record,) = export(source(Net(), ("batch", 3, 8, 8))).history
    assert record.name == "export"
    assert record.notes["opset"] == 18
    assert "dynamo" in record.notes["exporter"]


@pytest.mark.parametrize("opset", [16, 21])
def test_an_opset_out_of_range_is_a_usage_error(opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset {opset} is not exported; 17 to 20"):
        export(source(Net()), opset=opset)


def says(caught: pytest.ExceptionInfo, line: str, text: str) -> bool:
    """Whether an error is ``HERE:LINE in forward: TEXT``; the line is the one in this file that reads ``line``."""
    number = next(i for i, code in enumerate(HERE.read_text().splitlines(), 1) if line in code)
    place = theirs.shown(str(HERE), number)
    return str(caught.value).startswith(f"{place} in forward: {text}")


def test_a_model_that_does_not_repeat_itself_is_noticed_with_the_line_that_draws() -> None:
    class Noisy(Net):
        def forward(self, image):
            logits, x = super().forward(image)
            return logits + torch.rand_like(logits), x  # noise

    class LeftOn(Net):
        def forward(self, image):
            logits, x = super().forward(image)
            return nn.functional.dropout(logits, 0.5), x  # its training= was forgotten

    unsteady = "output 'logits' differs between two runs on the same input: "
    for module, line, operator in ((Noisy(), "x  # noise", "rand_like"), (LeftOn(), "# its training=", "dropout")):
        with pytest.raises(BadInput) as refused:
            export(source(module, ("batch", 3, 8, 8)))
        assert says(refused, line, f"{unsteady}{operator} draws random numbers; remove randomness from forward()")


def test_a_model_that_keeps_state_is_noticed_too() -> None:
    class Counting(Net):
        calls = 0

        def forward(self, image):
            self.calls += 1
            logits, x = super().forward(image)
            return logits * self.calls, x

    with pytest.raises(BadInput, match=r"^output 'logits' differs between two runs on the same input; remove"):
        export(source(Counting(), ("batch", 3, 8, 8)))


def test_a_wrong_declared_shape_is_told_in_the_users_names_at_their_line() -> None:
    with pytest.raises(BadInput) as refused:
        export(source(Net(), ("batch", 5, 8, 8)))
    assert says(refused, "x = torch.relu(self.norm(self.conv(image)))", "Given groups=1, weight of size [8, 3, 3, 3]")
    inputs = "inputs were image: float32[1, 5, 8, 8]; declare the inputs it takes, or mend forward()"
    assert str(refused.value).endswith(inputs)


def test_outputs_that_are_not_what_was_declared_are_told() -> None:
    said = r"Net\.forward\(\): returns 2 tensors, declared are 1 output \(logits\); name each of them"
    with pytest.raises(BadInput, match=said):
        export(source(Net(), ("batch", 3, 8, 8), ("logits",)))


def test_a_model_that_cannot_run_in_float64_has_no_golden_values_and_says_why() -> None:
    class Single(Net):
        def forward(self, image):
            return torch.ones(1, 3) @ image.mean((2, 3)).T, image * 2

    program = export(source(Single(), ("batch", 3, 8, 8), ("mixed", "twice")))
    assert all(not case.golden and case.outputs for case in program.reference.cases)
    assert program.history[0].notes["golden"].startswith("no float64: ")
    assert "inputs were image: float64[1, 3, 8, 8]" in program.history[0].notes["golden"]


class If(nn.Module):
    def forward(self, image):
        if image.sum() > 0:
            return image
        return -image


class While(nn.Module):
    def forward(self, image):
        while image.sum() > 1:
            image = image / 2
        return image


class Item(nn.Module):
    def forward(self, image):
        scale = image.max().item()
        if scale > 1.5:
            image = image / scale
        return image


DATA_DEPENDENT = (
    "Python control flow depends on a tensor's value (data-dependent), which no ONNX graph can follow; "
    "use torch.where for `if`, a fixed number of steps for `while`, or split the graph there"
)


@pytest.mark.parametrize(
    ("module", "line"),
    [(If(), "if image.sum() > 0:"), (While(), "while image.sum() > 1:"), (Item(), "if scale > 1.5:")],
)
def test_data_dependent_control_flow_is_explained_at_its_line(
    module: nn.Module, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unsupported) as refused:
        export(source(module, ("batch", 3), ("y",)))
    assert says(refused, line, DATA_DEPENDENT)
    assert refused.value.exit_code == 4
    assert capfd.readouterr() == ("", "")  # the tracer's half-made graphs are kept out of the terminal


class Loop(nn.Module):
    def forward(self, image):
        total = image[:, 0]
        for i in range(image.shape[1]):
            total = total + image[:, i]
        return total


class Rows(nn.Module):
    def forward(self, image):
        total = torch.zeros(3)
        for row in image:
            total = total + row.mean()
        return total


@pytest.mark.parametrize(
    ("module", "shape", "line", "axis"),
    [
        (Loop(), ("batch", "length"), "for i in range(image.shape[1]):", 1),
        (Rows(), ("batch", 3), "for row in image:", 0),
    ],
)
def test_a_python_loop_over_a_length_is_explained_at_its_line(module: nn.Module, shape, line: str, axis: int) -> None:
    with pytest.raises(Unsupported) as refused:
        export(source(module, shape, ("y",)))
    assert says(refused, line, f"axis {axis} of input 'image' is declared dynamic, but forward() fixes it at ")
    assert "a Python loop over a length is the usual cause: use tensor operations" in str(refused.value)


class Sum(nn.Module):
    def forward(self, first, *rest):
        return sum((x.mean(1) for x in rest), first.mean(1))


def test_a_module_that_takes_any_number_of_inputs_exports_with_its_dynamic_dimensions() -> None:
    specs = tuple(TensorSpec(name, "float32", ("batch", f"{name}_length")) for name in ("a", "b", "c"))
    program = export(Source({"main": GraphSource(Sum().eval(), specs, ("y",))}))
    sessions = backends.oracle(program)
    feeds = {name: np.full((3, length), length, np.float32) for name, length in (("a", 1), ("b", 5), ("c", 9))}
    # means of equal small integers are exact
    assert decode.run(sessions, None, feeds)["y"].tolist() == [15.0, 15.0, 15.0]


class LearnedQueries(nn.Module):
    """Starts from a constant, which the exporter's folder meets and remarks on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.queries = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.norm(self.queries).T


def test_the_exporters_remarks_on_its_own_work_stay_out_of_the_users_log(caplog: pytest.LogCaptureFixture) -> None:
    export(Source({"main": GraphSource(LearnedQueries(), (TensorSpec("x", "float32", ("batch", 4)),), ("y",))}))
    assert not [record for record in caplog.records if record.name.startswith(("torch.onnx", "onnxscript"))]


def test_a_length_stays_dynamic_after_somebody_exported_a_gru_at_a_fixed_one() -> None:
    """PyTorch then remembers to unroll the layer, and fixed the length of the next model exported too."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(nn.GRU(4, 3).eval(), (torch.randn(6, 2, 4),), dynamo=True, opset_version=18, verbose=False)
    inputs = (TensorSpec("x", "float32", ("batch", "length", 4)),)
    program = export(Source({"main": GraphSource(Reader().eval(), inputs, ("y",))}))
    assert [node.op_type for node in program.graphs["main"].graph.node].count("GRU") == 1
