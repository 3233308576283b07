"""Each mechanism is found however it is spelled, and nothing is found where there is none."""

from __future__ import annotations

import onnx
import pytest

from edgeattn.recognise import masks, recognise

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


class Se(nn.Module):
    """Squeeze-and-excitation with a chosen spelling of pool, bias, and gate."""

    def __init__(self, pool: str = "adaptive", bias: bool = True, gate: str = "sigmoid", conv: bool = False) -> None:
        super().__init__()
        self.pool = Pools(pool)
        self.conv = conv
        layer = (lambda i, o: nn.Conv2d(i, o, 1, bias=bias)) if conv else (lambda i, o: nn.Linear(i, o, bias=bias))
        self.mlp = nn.Sequential(layer(32, 4), nn.ReLU(), layer(4, 32))
        self.gate = nn.Hardsigmoid() if gate == "hard" else nn.Sigmoid()
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


class Rows(nn.Module):
    """A gate per channel and row, as in one half of coordinate attention: it is not squeeze-and-excitation."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.before, self.mix = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.pool = nn.AdaptiveAvgPool2d((None, 1)) if spelling == "pool" else None

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
    from edgeattn.export import export
    from edgeattn.models import GraphSource, Source
    from edgeattn.program import TensorSpec

    specs = tuple(TensorSpec(f"x{i}", "float32", ("batch", *s[1:])) for i, s in enumerate(shapes))
    (model,) = export(Source({"main": GraphSource(module, specs, ("y",))})).graphs.values()
    return model


@pytest.mark.parametrize("pool", ["adaptive", "reduce", "view", "window"])
@pytest.mark.parametrize(
    ("bias", "gate", "conv"), [(True, "sigmoid", False), (False, "hard", False), (True, "hard", True)]
)
def test_finds_se_in_any_spelling(pool: str, bias: bool, gate: str, conv: bool) -> None:
    (found,) = recognise(graph(Se(pool, bias, gate, conv), IMAGE))
    assert (found.kind, found.channels, found.reduction, found.pools) == ("se", 32, 8, ("mean",))


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


def test_tells_additive_from_multiplicative_alignment() -> None:
    assert [a.kind for a in recognise(graph(Additive(), *PAIR))] == ["additive"]
    assert [a.kind for a in recognise(graph(Multiplicative(), *PAIR))] == ["multiplicative"]


@pytest.mark.parametrize("module", [SelfGate(), Classifier(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid())])
def test_finds_nothing_where_there_is_no_attention(module) -> None:
    assert recognise(graph(module, IMAGE)) == []
