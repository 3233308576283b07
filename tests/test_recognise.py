"""Each mechanism is found however it is spelled, and nothing is found where there is none."""

from __future__ import annotations

import io
import warnings

import onnx
import pytest
from onnx import helper

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.recognise import masks, recognise
from edgeattn.rewrite import _apply
from tests.graphs import model as model_of

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.torch


class Pools(nn.Module):
    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.average = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        if self.spelling == "adaptive":
            return self.average(x).flatten(1)
        if self.spelling == "reduce":
            return x.mean((2, 3))
        if self.spelling == "view":
            return x.view(x.shape[0], x.shape[1], -1).mean(-1)
        return nn.functional.avg_pool2d(x, (8, 8)).flatten(1)


SIGMOIDS = {
    "sigmoid": nn.Sigmoid(),
    "hard": nn.Hardsigmoid(),
    "relu6 / 6": lambda t: nn.functional.relu6(t + 3) / 6,
    "relu6 * sixth": lambda t: nn.functional.relu6(t + 3) * 0.1667,
    "sixth * clamp": lambda t: (1 / 6) * torch.clamp(t + 3, 0, 6),
    "relu6 / 3": lambda t: nn.functional.relu6(t + 3) / 3,
    "clamp 0..5 / 6": lambda t: torch.clamp(t + 3, 0, 5) / 6,
    "relu / 6": lambda t: torch.relu(t + 3) / 6,
}


class Se(nn.Module):
    """Squeeze-and-excitation with a chosen spelling of pool, bias, and gate."""

    def __init__(self, pool: str = "adaptive", bias: bool = True, gate: str = "sigmoid", conv: bool = False) -> None:
        super().__init__()
        self.pool = Pools(pool)
        self.conv = conv
        layer = (lambda i, o: nn.Conv2d(i, o, 1, bias=bias)) if conv else (lambda i, o: nn.Linear(i, o, bias=bias))
        self.mlp = nn.Sequential(layer(32, 4), nn.ReLU(), layer(4, 32))
        self.gate = SIGMOIDS[gate]
        self.before = nn.Conv2d(3, 32, 3, padding=1)

    def forward(self, x):
        x = self.before(x)
        pooled = self.pool(x)
        mask = self.gate(self.mlp(pooled[:, :, None, None] if self.conv else pooled))
        return x * (mask if self.conv else mask[:, :, None, None].expand_as(x))


class Sam(nn.Module):
    def __init__(self, kernel: int = 7, mean_first: bool = False, norm: bool = True) -> None:
        super().__init__()
        self.mean_first = mean_first
        self.before = nn.Conv2d(3, 32, 3, padding=1)
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x):
        x = self.before(x)
        pools = [x.amax(1, keepdim=True), x.mean(1, keepdim=True)]
        pooled = torch.cat(pools[::-1] if self.mean_first else pools, 1)
        return x * torch.sigmoid(self.norm(self.conv(pooled)))


class Eca(nn.Module):
    """As the authors write it: the convolution runs along the transposed means."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 32, 3, padding=1)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x):
        x = self.before(x)
        y = nn.functional.adaptive_avg_pool2d(x, 1)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * torch.sigmoid(y).expand_as(x)


class Cbam(nn.Module):
    """CBAM's halves in a chosen arrangement; ``masks product`` multiplies the masks with one another first."""

    def __init__(self, arrangement: str) -> None:
        super().__init__()
        self.arrangement = arrangement
        self.before = nn.Conv2d(3, 32, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 32))
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def channel(self, x):
        return torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]

    def spatial(self, x):
        return torch.sigmoid(self.conv(torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)))

    def forward(self, x):
        x = self.before(x)
        if self.arrangement == "spatial-first":
            x = self.spatial(x) * x
            return self.channel(x) * x
        if self.arrangement == "spatial last":
            return x * self.channel(x) * self.spatial(x)
        if self.arrangement == "channel last":
            return x * self.spatial(x) * self.channel(x)
        if self.arrangement == "masks product":
            return x * (self.channel(x) * self.spatial(x))
        if self.arrangement == "sum":
            return x * self.channel(x) + x * self.spatial(x)
        return x * self.channel(x) * self.spatial(torch.relu(x))  # "other features"


class Bam(nn.Module):
    """BAM as the paper has it, as its authors' released code spells it, and near misses."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.before = nn.Conv2d(3, 32, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(32, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 32))
        out = 32 if spelling == "no plane" else 1
        wide = nn.Conv2d(4, 4, 3, padding=4, dilation=4)
        self.spatial = nn.Sequential(nn.Conv2d(32, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), wide, nn.Conv2d(4, out, 1))

    def forward(self, x):
        x = self.before(x)
        channel = self.mlp(x.mean((2, 3)))[:, :, None, None]
        if self.spelling == "released":
            return (1 + torch.sigmoid(channel * self.spatial(x))) * x
        if self.spelling == "not kept":
            return x * torch.sigmoid(channel + self.spatial(x))
        if self.spelling == "no convolution":
            return x + x * torch.sigmoid(channel + self.spatial(x) + x)
        if self.spelling == "other features":
            return x + x * torch.sigmoid(channel + self.spatial(torch.relu(x)))
        return x + x * torch.sigmoid(channel + self.spatial(x))


class Coordinate(nn.Module):
    """Coordinate attention's two gates in a chosen spelling; ``one`` has a single gate of rows and columns."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.before, self.shared = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 8, 1)
        self.rows, self.columns = nn.Conv2d(8, 32, 1), nn.Conv2d(8, 32, 1)
        self.pools = nn.AvgPool2d((1, 8)), nn.AvgPool2d((8, 1))

    def forward(self, x):
        x = self.before(x)
        h, w = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        if self.spelling == "pool":
            h, w = self.pools[0](x), self.pools[1](x)
        if self.spelling == "one":
            gate = torch.sigmoid(self.rows(self.shared(h) + self.shared(w)))
            return x * gate
        f = nn.functional.relu6(self.shared(torch.cat((h, w.transpose(2, 3)), 2)))
        f_h, f_w = torch.split(f, [8, 8], 2)
        rows, columns = torch.sigmoid(self.rows(f_h)), torch.sigmoid(self.columns(f_w.transpose(2, 3)))
        return x * (rows * columns) if self.spelling == "masks product" else columns * (x * rows)


class HardSwish(nn.Module):
    """Spelled out, as a network of another framework may have it: a hard sigmoid of the very tensor it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, x):
        x = self.conv(x)
        return x * (nn.functional.relu6(x + 3) / 6)


class Energy(nn.Module):
    """SimAM: a mask of the features and of their means, without a plane. No kind for it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, x):
        x = self.conv(x)
        return x + x * torch.sigmoid((x - x.mean((2, 3), keepdim=True)).square())


class Rows(nn.Module):
    """A gate per channel and row, as in one half of coordinate attention: it is not squeeze-and-excitation."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.before, self.mix = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.pool = nn.AvgPool2d((1, 8)) if spelling == "pool" else None

    def forward(self, x):
        x = self.before(x)
        return x * torch.sigmoid(self.mix(self.pool(x) if self.pool else x.mean(-1, keepdim=True)))


class Additive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1, bias=False)

    def forward(self, query, memory):
        scores = self.v(torch.tanh(self.w(query)[:, None] + self.u(memory))).squeeze(-1)
        return torch.bmm(torch.softmax(scores, -1)[:, None], memory)


class Multiplicative(nn.Module):
    def forward(self, query, memory):
        scores = torch.bmm(memory, query[:, :, None]).squeeze(-1)
        return torch.bmm(torch.softmax(scores, -1)[:, None], memory)


class SelfGate(nn.Module):
    """SiLU: a sigmoid times its own input is no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, x):
        x = self.conv(x)
        return x * torch.sigmoid(x)


class Classifier(nn.Module):
    """A softmax over classes is no alignment, and a pooled head is no gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 10)

    def forward(self, x):
        return torch.softmax(self.head(torch.relu(self.conv(x)).mean((2, 3))), -1)


IMAGE = (2, 3, 8, 8)
PAIR = ((2, 8), (2, 5, 8))


def graph(module, *shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Written by PyTorch's faster exporter; the table of spellings sees both."""
    file = io.BytesIO()
    names = [f"x{i}" for i in range(len(shapes))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation
        torch.onnx.export(
            module.eval(),
            tuple(torch.zeros(shape) for shape in shapes),
            file,
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["y"],
            dynamic_axes={name: {0: "batch"} for name in names},
        )
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("pool", ["adaptive", "reduce", "view", "window"])
@pytest.mark.parametrize(
    ("bias", "gate", "conv"),
    [(True, "sigmoid", False), (False, "hard", False), (True, "hard", True), (True, "relu6 / 6", True)],
)
def test_finds_se_in_any_spelling(pool: str, bias: bool, gate: str, conv: bool) -> None:
    (found,) = recognise(graph(Se(pool, bias, gate, conv), IMAGE))
    assert (found.kind, found.channels, found.reduction, found.pools) == ("se", 32, 8, ("mean",))


@pytest.mark.parametrize("gate", ["relu6 / 6", "relu6 * sixth", "sixth * clamp"])
def test_a_hard_sigmoid_spelled_out_is_a_gate_from_the_mlp_to_its_last_node(gate: str) -> None:
    model = graph(Se(gate=gate), IMAGE)
    (found,) = recognise(model)
    (last,) = [n for n in model.graph.node if n.output[0] == found.gate]
    assert (found.kind, found.reduction, last.op_type) == ("se", 8, "Div" if "/" in gate else "Mul")
    inside = [n.op_type for n in model.graph.node if n.output[0] in found.nodes]
    assert {"Clip", "Add", "Gemm"} <= set(inside)
    assert inside.count("Gemm") == 2


@pytest.mark.parametrize("gate", ["relu6 / 3", "clamp 0..5 / 6", "relu / 6"])
def test_a_mask_that_does_not_run_from_zero_to_one_is_no_gate(gate: str) -> None:
    assert recognise(graph(Se(gate=gate), IMAGE)) == []


@pytest.mark.parametrize(("kernel", "mean_first", "norm"), [(7, False, True), (3, True, False), (7, True, True)])
def test_finds_sam_with_either_order_of_pools(kernel: int, mean_first: bool, norm: bool) -> None:
    (found,) = recognise(graph(Sam(kernel, mean_first, norm), IMAGE))
    assert (found.kind, found.kernel, found.pools) == ("sam", (kernel, kernel), ("max", "mean"))


@pytest.mark.parametrize("kernel", [3, 5])
def test_finds_eca_and_does_not_call_it_se(kernel: int) -> None:
    (found,) = recognise(graph(Eca(kernel), IMAGE))
    assert (found.kind, found.channels, found.kernel, found.reduction) == ("eca", 32, (kernel,), None)


def test_eca_before_sam_is_no_cbam() -> None:
    spatial = Sam()
    spatial.before = nn.Identity()  # gates what ECA has gated, as CBAM's spatial half does
    block = nn.Sequential(Eca(3), spatial)
    assert [a.kind for a in recognise(graph(block, IMAGE))] == ["eca", "sam"]


@pytest.mark.parametrize("spelling", ["pool", "mean"])
def test_a_gate_per_row_is_not_taken_for_se(spelling: str) -> None:
    assert recognise(graph(Rows(spelling), IMAGE)) == []


def test_finds_cbam_as_one_structure_with_two_halves() -> None:
    from edgeattn.blocks.cbam import BLOCK

    block = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), BLOCK.build(64))
    model = graph(block, IMAGE)
    (found,) = recognise(model)
    assert (found.kind, found.channels, found.reduction, found.kernel) == ("cbam", 64, 16, (7, 7))
    assert [part.kind for part in found.parts] == ["cam", "sam"]
    assert masks([found], "sam") == [found.gate]


@pytest.mark.parametrize(
    ("arrangement", "order"),
    [
        ("spatial-first", "spatial-first"),
        ("spatial last", "parallel"),
        ("channel last", "parallel"),
        ("masks product", "parallel"),
    ],
)
def test_finds_cbams_other_orders(arrangement: str, order: str) -> None:
    model = graph(Cbam(arrangement), IMAGE)
    (found,) = recognise(model)
    assert (found.kind, found.order, found.channels, found.reduction) == ("cbam", order, 32, 8)
    assert found.kernel == (7, 7)
    assert [part.kind for part in found.parts] == ["cam", "sam"]
    assert found.result == model.graph.output[0].name
    assert found.describe().endswith(order)
    assert found.nodes == found.parts[0].nodes | found.parts[1].nodes


def test_gates_that_are_added_up_or_look_at_other_features_are_no_cbam() -> None:
    assert {a.kind for a in recognise(graph(Cbam("sum"), IMAGE))} == {"cam", "sam"}
    assert [a.kind for a in recognise(graph(Cbam("other features"), IMAGE))] == ["cam"]


def test_in_a_chain_of_gates_the_usual_order_of_cbam_goes_first() -> None:
    from edgeattn.blocks.cam import Cam
    from edgeattn.blocks.sam import Sam as SamBlock

    chain = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), SamBlock(32), Cam(32), SamBlock(32))
    assert [(a.kind, a.order) for a in recognise(graph(chain, IMAGE))] == [("sam", ""), ("cbam", "channel-first")]


@pytest.mark.parametrize("spelling", ["paper", "released"])
def test_finds_bam_with_its_residual(spelling: str) -> None:
    model = graph(Bam(spelling), IMAGE)
    (found,) = recognise(model)
    assert (found.kind, found.channels, found.reduction, found.kernel) == ("bam", 32, 8, (3, 3))
    assert found.pools == ("mean",)
    assert found.result == model.graph.output[0].name
    inside = [n.op_type for n in model.graph.node if n.output[0] in found.nodes]
    assert (inside.count("Conv"), inside.count("Gemm")) == (3, 2)


@pytest.mark.parametrize("spelling", ["not kept", "no plane", "no convolution", "other features"])
def test_a_mask_that_is_only_nearly_bams_is_not_taken_for_it(spelling: str) -> None:
    assert recognise(graph(Bam(spelling), IMAGE)) == []


@pytest.mark.parametrize("spelling", ["mean", "pool", "masks product"])
def test_finds_coordinate_attention_as_one_structure(spelling: str) -> None:
    model = graph(Coordinate(spelling), IMAGE)
    (found,) = recognise(model)
    assert (found.kind, found.channels, found.reduction) == ("coordinate", 32, 4)
    assert found.pools == ("mean",)
    assert found.result == model.graph.output[0].name
    inside = [n.op_type for n in model.graph.node if n.output[0] in found.nodes]
    assert (inside.count("Conv"), inside.count("Sigmoid")) == (3, 2)


def test_one_gate_of_rows_and_columns_is_no_coordinate_attention() -> None:
    assert recognise(graph(Coordinate("one"), IMAGE)) == []


def test_tells_additive_from_multiplicative_alignments() -> None:
    assert [a.kind for a in recognise(graph(Additive(), *PAIR))] == ["bahdanau"]
    assert [a.kind for a in recognise(graph(Multiplicative(), *PAIR))] == ["luong"]


@pytest.mark.parametrize(
    "module", [SelfGate(), HardSwish(), Energy(), Classifier(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid())]
)
def test_finds_nothing_where_there_is_no_attention(module) -> None:
    assert recognise(graph(module, IMAGE)) == []


def test_masks_that_fork_and_meet_again_many_times_cost_no_more_than_their_nodes() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["m0"])]
    for i in range(60):  # every path taken by itself would be 2 ** 60 of them
        nodes += [helper.make_node("Identity", [f"m{i}"], [f"{side}{i}"]) for side in "ab"]
        nodes.append(helper.make_node("Mul", [f"a{i}", f"b{i}"], [f"m{i + 1}"]))
    assert recognise(model_of(nodes, {"x": ["batch", 8]}, {"m60": ["batch", 8]}, {})) == []


def test_a_channel_mean_written_as_a_convolution_is_still_the_pool_of_a_spatial_mask() -> None:
    plain = onnx.shape_inference.infer_shapes(graph(Sam(7, True, False), IMAGE))
    lowered = _apply.apply(registry.get("rewrite", "lower_channel_mean_to_conv"), Program({"main": plain}))
    assert lowered.count == 1
    model = lowered.program.graphs["main"]
    (found,) = recognise(model)
    assert (found.kind, found.kernel, found.pools) == ("sam", (7, 7), ("max", "mean"))
    assert masks(recognise(model), "sam") == masks(recognise(plain), "sam")
