from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from edgeattn import backends, decode, graphs
from edgeattn.errors import BadInput, Unsupported, UsageError
from edgeattn.export import OPSETS, export
from edgeattn.models import GraphSource, Source
from edgeattn.program import TensorSpec

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]


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


def test_a_model_that_does_not_repeat_itself_is_noticed() -> None:
    class Noisy(Net):
        def forward(self, image):
            logits, x = super().forward(image)
            return logits + torch.rand_like(logits), x

    with pytest.raises(BadInput, match="output 'logits' differs between two runs"):
        export(source(Noisy(), ("batch", 3, 8, 8)))


def test_a_wrong_declared_shape_is_told_in_the_users_names() -> None:
    with pytest.raises(
        BadInput, match=r"does not run on its declared inputs: .*; declared: image: float32\[batch, 5, 8, 8\]"
    ):
        export(source(Net(), ("batch", 5, 8, 8)))


def test_data_dependent_control_flow_is_explained() -> None:
    class Branching(Net):
        def forward(self, image):
            logits, x = super().forward(image)
            return (logits, x) if image.sum() > 0 else (-logits, x)

    with pytest.raises(Unsupported, match=r"PyTorch cannot export graph 'main': .*data-dependent") as refused:
        export(source(Branching(), ("batch", 3, 8, 8)))
    assert refused.value.exit_code == 4


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
