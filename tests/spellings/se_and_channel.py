"""Channel attention: squeeze-and-excitation, CBAM's channel half, ECA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._parts import MAXIMA, MEANS, PRODUCTS, SIGMOIDS, C, Mlp, R, stem
from tests.spellings._spelling import Expected, Family, spec

FAMILY = Family("se_and_channel")
IMAGE = (spec("x", "batch", 3, 8, 6),)
ANY = (spec("x", "batch", 3, "height", "width"),)


class Se(nn.Module):
    """x · σ(MLP(pool(x))), each part in a chosen spelling."""

    def __init__(self, pool: str = "adaptive", gate: str = "sigmoid", product: str = "view", **mlp: object) -> None:
        super().__init__()
        self.stem, self.mlp = stem(), Mlp(**mlp)  # type: ignore[arg-type]
        self.pool, self.gate, self.product = MEANS[pool], SIGMOIDS[gate], PRODUCTS[product]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.product(x, self.gate(self.mlp(self.pool(x))))


class Cam(Se):
    """CBAM's channel half: one MLP over the mean and the maximum."""

    def __init__(self, pool: str = "adaptive", together: bool = False, **options: object) -> None:
        super().__init__(pool, **options)  # type: ignore[arg-type]
        self.top, self.together = MAXIMA[pool], together

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.together:  # both pools in one batch, as a fused implementation runs them
            both = self.mlp(torch.cat((self.pool(x), self.top(x))))
            a, m = both[: x.shape[0]], both[x.shape[0] :]
        else:
            a, m = self.mlp(self.pool(x)), self.mlp(self.top(x))
        return self.product(x, self.gate(a + m))


class SeOfNhwc(nn.Module):
    """As a TensorFlow export reads: channels last throughout, transposed for the convolutions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = stem(), nn.Linear(C, C // R), nn.Linear(C // R, C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        y = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((1, 2), keepdim=True)))))
        return (x * y).permute(0, 3, 1, 2)


class SeOfNhwcByConv(nn.Module):
    """As EfficientNet reads after tf2onnx: the mean over (1, 2), 1 x 1 convolutions between two Transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = stem(), nn.Conv2d(C, C // R, 1), nn.Conv2d(C // R, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        y = x.mean((1, 2), keepdim=True).permute(0, 3, 1, 2)
        y = torch.sigmoid(self.excite(F.silu(self.squeeze(y)))).permute(0, 2, 3, 1)
        return (x * y).permute(0, 3, 1, 2)


class SeOfInput(nn.Module):
    """The features are the graph's input."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp("conv")

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.mlp(x.mean((2, 3), keepdim=True)))


class SeResidual(nn.Module):
    """Where the best-known networks have it: after the branch's last norm, before the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.mlp = stem(), nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.norm(self.conv(x))
        return F.relu(x + y * torch.sigmoid(self.mlp(y.mean((2, 3))))[:, :, None, None])


class EffectiveSe(nn.Module):
    """VoVNet's: one layer C → C instead of a bottleneck (Lee & Park 2020, section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = stem(), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)))


class Eca(nn.Module):
    """A 1-D convolution over the channels."""

    def __init__(self, spelling: str, kernel: int = 3) -> None:
        super().__init__()
        self.stem, self.spelling = stem(), spelling
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.flat = nn.Conv2d(1, 1, (1, kernel), padding=(0, kernel // 2), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.adaptive_avg_pool2d(x, 1)
        if self.spelling == "transpose":
            y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
            return x * torch.sigmoid(y).expand_as(x)
        if self.spelling == "view":
            return x * torch.sigmoid(self.conv(y.view(x.shape[0], 1, -1))).view(x.shape[0], -1, 1, 1)
        if self.spelling == "mean":
            return x * torch.sigmoid(self.conv(x.mean((2, 3)).unsqueeze(1))).squeeze(1)[:, :, None, None]
        return x * torch.sigmoid(self.flat(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)  # "conv2d"


def _se(name: str, *, static: bool = False, image: tuple = IMAGE, gate: str = "sigmoid", **options: object) -> None:
    function = "hard-sigmoid" if gate in ("hard", "relu6-over-6", "clamp-by-sixth", "hardtanh-half") else "sigmoid"
    facts = {"channels": C, "reduction": R, "pools": ("mean",), "gate_function": function}
    made = Expected("se", facts)
    FAMILY.add(f"se-{name}", lambda: Se(gate=gate, **options), image, made, static=static)  # type: ignore[arg-type]


for pool in MEANS:
    layer = "conv" if pool in ("mean-keepdim", "mean-from-the-end", "mean-twice-keepdim") else "linear"
    _se(f"pool-{pool}", pool=pool, layer=layer, bias=pool != "view")
for gate in SIGMOIDS:
    _se(f"gate-{gate}", gate=gate, layer="conv" if gate in ("hard", "exp") else "linear")
for product in PRODUCTS:
    _se(f"product-{product}", product=product)
for activation in ("silu", "gelu", "gelu-tanh", "leaky", "prelu", "hardswish", "mish"):
    _se(f"act-{activation}", activation=activation, layer="conv" if activation in ("silu", "prelu") else "linear")
_se("conv1d", layer="conv1d")
_se("linear-last", layer="linear-last")
_se("no-bias-conv", layer="conv", bias=False)
for inside, layer in (("norm", "conv"), ("norm", "linear"), ("dropout", "linear"), ("layernorm", "linear")):
    _se(f"{inside}-inside-{layer}", inside=inside, layer=layer)
for pool in ("adaptive", "mean", "sum", "view"):
    _se(f"any-size-{pool}", image=ANY, pool=pool)
_se("static", static=True, pool="window")
for build in (SeOfNhwc, SeOfNhwcByConv, SeResidual):
    name = {"SeOfNhwc": "se-nhwc", "SeOfNhwcByConv": "se-nhwc-by-conv", "SeResidual": "se-residual"}[build.__name__]
    FAMILY.add(name, build, IMAGE, Expected("se", {"channels": C, "reduction": R, "pools": ("mean",)}))
FAMILY.add("se-of-the-input", SeOfInput, (spec("x", "batch", C, 8, 6),), Expected("se", {"channels": C}))
FAMILY.add("se-effective", EffectiveSe, IMAGE, Expected("se", {"channels": C, "gate_function": "hard-sigmoid"}))

CAM = Expected("cam", {"channels": C, "reduction": R, "pools": ("max", "mean")})
for pool in MAXIMA:
    FAMILY.add(f"cam-{pool}", lambda p=pool: Cam(p), IMAGE, CAM)
FAMILY.add("cam-conv-no-bias", lambda: Cam("mean-keepdim", layer="conv", bias=False), IMAGE, CAM)
FAMILY.add("cam-together", lambda: Cam("adaptive", together=True, layer="conv"), IMAGE, CAM)
for way in ("transpose", "view", "mean", "conv2d"):
    FAMILY.add(f"eca-{way}", lambda w=way: Eca(w), IMAGE, Expected("eca", {"channels": C, "kernel": (3,)}))
