"""CBAM: a channel and a spatial gate, in the three orders and the ways the best-known implementations write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._parts import MAXIMA, MEANS, PRODUCTS, SIGMOIDS, C, Mlp, R, stem
from tests.spellings._spelling import Expected, Family, spec
from tests.spellings.spatial import PLANES, SPATIAL_PRODUCTS

FAMILY = Family("cbam")
IMAGE = (spec("x", "batch", 3, 8, 6),)
ANY = (spec("x", "batch", 3, "height", "width"),)


class Cbam(nn.Module):
    """Both halves, each part in a chosen spelling, in a chosen arrangement."""

    def __init__(
        self,
        pool: str = "adaptive",
        planes: str = "max-mean",
        arrangement: str = "channel-first",
        product: str = "view",
        spatial_product: str = "plain",
        gate: str = "sigmoid",
        kernel: int = 7,
        norm: bool = False,
        **mlp: object,
    ) -> None:
        super().__init__()
        self.stem, self.mlp, self.arrangement = stem(), Mlp(**mlp), arrangement  # type: ignore[arg-type]
        self.mean, self.top, self.product = MEANS[pool], MAXIMA[pool], PRODUCTS[product]
        self.planes, self.gate, self.spatial_product = PLANES[planes], SIGMOIDS[gate], SPATIAL_PRODUCTS[spatial_product]
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def channel(self, x: Tensor) -> Tensor:
        return self.gate(self.mlp(self.mean(x)) + self.mlp(self.top(x)))

    def spatial(self, x: Tensor) -> Tensor:
        return self.gate(self.norm(self.conv(self.planes(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.arrangement == "spatial-first":
            x = self.spatial_product(x, self.spatial(x))
            return self.product(x, self.channel(x))
        if self.arrangement == "parallel":
            channel, spatial = self.channel(x), self.spatial(x)
            return self.spatial_product(self.product(x, channel), spatial)
        x = self.product(x, self.channel(x))
        return self.spatial_product(x, self.spatial(x))


class Original(nn.Module):
    """As the authors' released code: pools as wide as the image, two unsqueezes, expand_as, the maximum first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(C, C // R), nn.ReLU(), nn.Linear(C // R, C))
        self.conv, self.norm = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        size = (x.size(2), x.size(3))
        pooled = self.mlp(F.avg_pool2d(x, size, stride=size)) + self.mlp(F.max_pool2d(x, size, stride=size))
        x = x * torch.sigmoid(pooled).unsqueeze(2).unsqueeze(3).expand_as(x)
        z = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), 1)
        return x * torch.sigmoid(self.norm(self.conv(z)))


class OfNhwc(nn.Module):
    """Channels last throughout, as a TensorFlow model reads after its export."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = stem(), nn.Linear(C, C // R), nn.Linear(C // R, C)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        a, m = (self.excite(F.relu(self.squeeze(p))) for p in (x.mean((1, 2)), x.amax((1, 2))))
        x = x * torch.sigmoid(a + m)[:, None, None, :]
        planes = torch.cat((x.mean(3, keepdim=True), x.amax(3, keepdim=True)), 3).permute(0, 3, 1, 2)
        return (x * torch.sigmoid(self.conv(planes)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OfSequence(nn.Module):
    """One-dimensional CBAM over ``(B, C, L)``, as in networks for signals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, C, 3, padding=1)
        self.squeeze, self.excite = nn.Conv1d(C, C // R, 1), nn.Conv1d(C // R, C, 1)
        self.conv = nn.Conv1d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, m = (self.excite(F.relu(self.squeeze(p(x, 1)))) for p in (F.adaptive_avg_pool1d, F.adaptive_max_pool1d))
        x = x * torch.sigmoid(a + m)
        planes = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.conv(planes))


class InResidual(nn.Module):
    """Two blocks of a ResNet with CBAM before each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem()
        self.layer1 = nn.Sequential(Branch(), Branch())

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer1(self.stem(x))
        return made


class Branch(nn.Module):
    """conv, norm, CBAM, sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.cbam = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), Cbam(norm=True)
        self.cbam.stem = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.cbam(self.norm(self.conv(x))))


def _cbam(name: str, image: tuple = IMAGE, **options: object) -> None:
    kernel = options.get("kernel", 7)
    order = options.get("arrangement", "channel-first")
    facts = {"channels": C, "reduction": R, "kernel": (kernel, kernel), "order": order, "pools": ("max", "mean")}
    FAMILY.add(f"cbam-{name}", lambda: Cbam(**options), image, Expected("cbam", facts))  # type: ignore[arg-type]


FULL = Expected("cbam", {"channels": C, "reduction": R, "kernel": (7, 7), "order": "channel-first"})
FAMILY.add("cbam-original", Original, IMAGE, FULL)
FAMILY.add("cbam-nhwc", OfNhwc, IMAGE, FULL)
FAMILY.add("cbam-of-a-sequence", OfSequence, (spec("x", "batch", 3, 12),), Expected("cbam", {"kernel": (7,)}))
FAMILY.add("cbam-in-residual-branches", InResidual, IMAGE, FULL, FULL)
_cbam("timm", pool="mean-keepdim", planes="mean-max", layer="conv", bias=False, norm=True)
for pool in ("adaptive", "mean-twice", "window", "view", "flatten", "nhwc"):
    _cbam(f"pool-{pool}", pool=pool)
for order in ("spatial-first", "parallel"):
    _cbam(order, arrangement=order)
_cbam("parallel-conv", arrangement="parallel", layer="conv", product="index", norm=True)
_cbam("hard", gate="relu6-over-6", layer="conv")
_cbam("exp", gate="exp")
_cbam("silu", activation="silu", layer="conv")
_cbam("gelu-no-bias", activation="gelu", bias=False)
_cbam("3x3", kernel=3, norm=True)
_cbam("expand", product="expand", spatial_product="expand")
_cbam("repeat", product="repeat", spatial_product="repeat")
_cbam("einsum", product="einsum", spatial_product="einsum")
_cbam("planes-stack", planes="stack")
_cbam("any-size", image=ANY, layer="conv")
_cbam("any-size-view", image=ANY, pool="view")
