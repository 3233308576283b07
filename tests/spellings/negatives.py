"""Look-alikes: sigmoids that multiply and softmaxes that weigh, in which nothing attends to anything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._parts import C, stem
from tests.spellings._spelling import Family, spec

FAMILY = Family("negatives")
IMAGE = (spec("x", "batch", 3, 8, 6),)
ROWS = (spec("x", "batch", 16),)
SEQUENCE = (spec("x", "batch", "target", 16),)


class Of(nn.Module):
    """A function with layers by name, so that each look-alike is a few lines."""

    def __init__(self, function, **layers: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function, self.layers = function, nn.ModuleDict(layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = self.function(*inputs, **self.layers)
        return made


def _no(name: str, inputs: tuple, function, **layers) -> None:  # type: ignore[no-untyped-def,type-arg]
    def build() -> nn.Module:
        return Of(function, **{n: make() for n, make in layers.items()})

    FAMILY.add(f"no-{name}", build, inputs)


def lin(i: int = 16, o: int = 16):  # type: ignore[no-untyped-def]
    return lambda: nn.Linear(i, o)


def conv(i: int = C, o: int = C, k: int = 3, **options: int):  # type: ignore[no-untyped-def]
    return lambda: nn.Conv2d(i, o, k, padding=k // 2, **options)


# gates that look at no pool of what they multiply
_no("glu", ROWS, lambda x, a: F.glu(a(x), -1), a=lin(16, 32))
_no("swiglu", ROWS, lambda x, a, b, c: c(F.silu(a(x)) * b(x)), a=lin(), b=lin(), c=lin())
_no("geglu", ROWS, lambda x, a, b: F.gelu(a(x)) * b(x), a=lin(), b=lin())
_no("swish", IMAGE, lambda x, s: (lambda y: y * torch.sigmoid(y))(s(x)), s=stem)
_no("hard-swish", IMAGE, lambda x, s: (lambda y: y * F.relu6(y + 3) / 6)(s(x)), s=stem)
_no("swish-beta", IMAGE, lambda x, s: (lambda y: y * torch.sigmoid(1.702 * y))(s(x)), s=stem)
_no("swish-by-exp", IMAGE, lambda x, s: (lambda y: y / (1 + torch.exp(-y)))(s(x)), s=stem)
_no(
    "highway",
    ROWS,
    lambda x, h, t: (lambda g: g * torch.relu(h(x)) + (1 - g) * x)(torch.sigmoid(t(x))),
    h=lin(),
    t=lin(),
)
_no("residual-gate", IMAGE, lambda x, s, c, p: s(x) + torch.sigmoid(p.weight) * c(s(x)), s=stem, c=conv(),
    p=lambda: nn.Linear(1, 1))  # fmt: skip
_no("gated-conv", IMAGE, lambda x, a, b: torch.sigmoid(a(x)) * torch.tanh(b(x)), a=conv(3), b=conv(3))
_no("film", (*IMAGE, spec("c", "batch", 8)),
    lambda x, c, s, g, b: s(x) * torch.sigmoid(g(c))[:, :, None, None] + b(c)[:, :, None, None],
    s=stem, g=lin(8), b=lin(8))  # fmt: skip
_no("gate-of-another-image", (*IMAGE, spec("z", "batch", 3, 8, 6)),
    lambda x, z, s, t, m: s(x) * torch.sigmoid(m(t(z).mean((2, 3))))[:, :, None, None],
    s=stem, t=stem, m=lin())  # fmt: skip
_no("tanh-gate", IMAGE, lambda x, s, m: (lambda y: y * torch.tanh(m(y.mean((2, 3))))[:, :, None, None])(s(x)), s=stem,
    m=lin())  # fmt: skip
_no("squeeze-without-gate", IMAGE, lambda x, s, m: (lambda y: y + m(y.mean((2, 3)))[:, :, None, None])(s(x)), s=stem,
    m=lin())  # fmt: skip
_no("gate-added", IMAGE, lambda x, s, m: (lambda y: y + torch.sigmoid(m(y.mean((2, 3))))[:, :, None, None])(s(x)),
    s=stem, m=lin())  # fmt: skip
_no("relu6-over-3", IMAGE,
    lambda x, s, m: (lambda y: y * (F.relu6(m(y.mean((2, 3))) + 3) / 3)[:, :, None, None])(s(x)),
    s=stem, m=lin())  # fmt: skip
_no("sim-am", IMAGE, lambda x, s: (lambda y: y * torch.sigmoid((y - y.mean((2, 3), keepdim=True)).square()))(s(x)),
    s=stem)  # fmt: skip
_no("row-gate", IMAGE, lambda x, s, c: (lambda y: y * torch.sigmoid(c(y.mean(3, keepdim=True))))(s(x)), s=stem,
    c=conv(k=1))  # fmt: skip
_no("gate-of-a-convolution", IMAGE, lambda x, s, c: (lambda y: y * torch.sigmoid(c(y)))(s(x)), s=stem, c=conv(C, 1))
_no("normalised", IMAGE, lambda x, s: (lambda y: y / (y.mean((2, 3), keepdim=True) + 1))(s(x)), s=stem)

# sigmoids and softmaxes at the end
_no("segmentation", IMAGE, lambda x, s, c: torch.sigmoid(c(F.relu(s(x)))), s=stem, c=conv(C, 1))
_no("mask-applied-to-the-image", IMAGE, lambda x, s, c: x * torch.sigmoid(c(F.relu(s(x)))), s=stem, c=conv(C, 1))
_no("classifier", IMAGE, lambda x, s, h: torch.softmax(h(F.relu(s(x)).mean((2, 3))), -1), s=stem, h=lin(C, 10))
_no("sigmoid-classifier", IMAGE, lambda x, s, h: torch.sigmoid(h(F.relu(s(x)).mean((2, 3)))), s=stem, h=lin(C, 10))
_no("per-pixel-classes", IMAGE, lambda x, s: torch.softmax(s(x), 1), s=stem)

# softmaxes that weigh what was not compared with anything
_no("codebook", ROWS, lambda x, a, b: torch.softmax(a(x), -1) @ b.weight, a=lin(16, 32), b=lin(16, 32))
_no("codebook-of-rows", SEQUENCE, lambda x, a, b: torch.softmax(a(x), -1) @ b.weight, a=lin(16, 32), b=lin(16, 32))
_no("expectation", ROWS, lambda x, a: (torch.softmax(a(x), -1) * torch.arange(16.0)).sum(-1), a=lin())
_no("soft-argmax", IMAGE, lambda x, s: torch.softmax(s(x).flatten(2), -1) @ torch.rand(48, 2), s=stem)
_no("experts", ROWS,
    lambda x, g, a, b, c: (torch.softmax(g(x), -1)[:, None] @ torch.stack((a(x), b(x), c(x)), 1))[:, 0],
    g=lin(16, 3), a=lin(), b=lin(), c=lin())  # fmt: skip
_no("selective-kernel", IMAGE,
    lambda x, a, b, f, g: (lambda u, w: (
        torch.softmax(g(F.relu(f((u + w).mean((2, 3))))).view(x.shape[0], 2, C, 1, 1), 1) * torch.stack((u, w), 1)
    ).sum(1))(a(x), b(x)),
    a=conv(3), b=conv(3, k=5), f=lin(), g=lin(16, 32))  # fmt: skip
_no("softmax-between-layers", ROWS, lambda x, a, b: b(torch.softmax(a(x), -1)), a=lin(), b=lin())
_no("entropy", ROWS, lambda x, a: (torch.softmax(a(x), -1) * torch.log_softmax(a(x), -1)).sum(-1), a=lin())
_no("feature-weights", ROWS, lambda x, a: x * torch.softmax(a(x), -1), a=lin())
_no("gram-matrix", SEQUENCE, lambda x: x @ x.transpose(1, 2) @ x)


class Cell(nn.Module):
    """Recurrent cells written out over a few steps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.x, self.h = kind, nn.Linear(16, 64), nn.Linear(16, 64)
        self.module = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.Identity)(
            *([16, 16] if kind in ("lstm", "gru") else [])
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.kind in ("lstm", "gru"):
            made: Tensor = self.module(x)[0]
            return made
        h = c = torch.zeros_like(x[:, 0])
        for t in range(3):
            i, f, o, g = (self.x(x[:, t]) + self.h(h)).chunk(4, -1)
            if self.kind == "lstm-written-out":
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                z, r = torch.sigmoid(i), torch.sigmoid(f)
                h = (1 - z) * torch.tanh(g + r * o) + z * h
        return h


class Net(nn.Module):
    """Small networks of plain convolutions with the shapes of the well-known ones."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem, self.norm, self.head = kind, stem(), nn.BatchNorm2d(C), nn.Linear(C, 10)
        self.a, self.b = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1)
        self.wide, self.depth, self.narrow = (
            nn.Conv2d(C, 64, 1),
            nn.Conv2d(64, 64, 3, padding=1, groups=64),
            nn.Conv2d(64, C, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        if self.kind == "resnet":
            x = F.relu(x + self.b(F.relu(self.a(x))))
        elif self.kind == "mobilenet":
            x = x + self.narrow(F.relu6(self.depth(F.relu6(self.wide(x)))))
        elif self.kind == "densenet":
            x = torch.cat((x, F.relu(self.a(x))), 1)[:, :C]
        elif self.kind == "convnext":
            y = F.layer_norm(self.a(x).permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2)
            x = x + self.narrow(F.gelu(self.wide(y)))
        elif self.kind == "global-context-added":
            x = x + self.a(F.adaptive_avg_pool2d(x, 1).expand_as(x))
        return torch.softmax(self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)), 1)


class GlobalResponse(nn.Module):
    """ConvNeXt V2's response norm: features times a normalised norm of themselves, without a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        g = x.square().sum((2, 3), keepdim=True).sqrt()
        return x + x * (g / (g.mean(1, keepdim=True) + 1e-6))


for kind in ("lstm", "gru"):
    FAMILY.add(f"no-{kind}", lambda k=kind: Cell(k), (spec("x", "target", "batch", 16),))
for kind in ("lstm-written-out", "gru-written-out"):
    FAMILY.add(f"no-{kind}", lambda k=kind: Cell(k), (spec("x", "batch", 3, 16),))
for kind in ("resnet", "mobilenet", "densenet", "convnext", "global-context-added"):
    FAMILY.add(f"no-{kind}", lambda k=kind: Net(k), IMAGE)
FAMILY.add("no-response-norm", GlobalResponse, IMAGE)
