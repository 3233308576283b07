"""Spatial attention (SAM), coordinate attention, and BAM, which reads the features themselves as well."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._parts import SIGMOIDS, C, Mlp, Op, R, stem
from tests.spellings._spelling import Expected, Family, spec

FAMILY = Family("spatial")
IMAGE = (spec("x", "batch", 3, 8, 6),)
ANY = (spec("x", "batch", 3, "height", "width"),)

PLANES: dict[str, Op] = {
    "max-mean": lambda x: torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1),
    "mean-max": lambda x: torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1),
    "max-of-pair": lambda x: torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), 1),
    "from-the-end": lambda x: torch.cat((x.amax(-3, keepdim=True), x.mean(-3, keepdim=True)), -3),
    "stack": lambda x: torch.stack((x.amax(1), x.mean(1)), 1),
    "sum": lambda x: torch.cat((x.sum(1, keepdim=True) / C, x.amax(1, keepdim=True)), 1),
    "max-mean-min": lambda x: torch.cat([f(x, 1, keepdim=True) for f in (torch.amax, torch.mean, torch.amin)], 1),
    "mean-alone": lambda x: x.mean(1, keepdim=True),
    "nhwc": lambda x: torch.cat(
        [f(x.permute(0, 2, 3, 1), -1, keepdim=True) for f in (torch.mean, torch.amax)], -1
    ).permute(0, 3, 1, 2),
}
COUNT = {"max-mean-min": 3, "mean-alone": 1}
SPATIAL_PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda x, m: x * m,
    "expand": lambda x, m: x * m.expand_as(x),
    "repeat": lambda x, m: x * m.repeat(1, x.shape[1], 1, 1),
    "squeezed": lambda x, m: x * m.squeeze(1)[:, None],
    "einsum": lambda x, m: torch.einsum("nchw,nhw->nchw", x, m[:, 0]),
    "nhwc": lambda x, m: (x.permute(0, 2, 3, 1) * m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
}


class Sam(nn.Module):
    """x · σ(conv(planes of x)), each part in a chosen spelling."""

    def __init__(
        self,
        planes: str = "max-mean",
        kernel: int = 7,
        norm: bool = False,
        bias: bool = False,
        dilation: int = 1,
        gate: str = "sigmoid",
        product: str = "plain",
    ) -> None:
        super().__init__()
        reach = dilation * (kernel - 1) // 2
        self.stem = stem()
        self.conv = nn.Conv2d(COUNT.get(planes, 2), 1, kernel, padding=reach, dilation=dilation, bias=bias)
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()
        self.planes, self.gate, self.product = PLANES[planes], SIGMOIDS[gate], SPATIAL_PRODUCTS[product]

    def mask(self, x: Tensor) -> Tensor:
        return self.gate(self.norm(self.conv(self.planes(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.product(x, self.mask(x))


class SamOfNhwc(nn.Module):
    """Channels last throughout, transposed for the convolutions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = stem(), nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        planes = torch.cat((x.mean(3, keepdim=True), x.amax(3, keepdim=True)), 3)
        y = torch.sigmoid(self.conv(planes.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return (x * y).permute(0, 3, 1, 2)


class SamTwoConvs(Sam):
    """Two stacked convolutions instead of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))


class Coordinate(nn.Module):
    """Coordinate attention (Hou 2021): gates of rows and of columns that share their first layer."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.stem, self.spelling = stem(), spelling
        self.shared, self.norm = nn.Conv2d(C, C // R, 1), nn.BatchNorm2d(C // R)
        self.rows, self.columns = nn.Conv2d(C // R, C, 1), nn.Conv2d(C // R, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        height, width = x.shape[2:]
        if self.spelling == "mean":
            h, w = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        else:
            h, w = F.adaptive_avg_pool2d(x, (None, 1)), F.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
        y = F.hardswish(self.norm(self.shared(torch.cat((h, w), 2))))
        y_h, y_w = torch.split(y, [height, width], 2)
        rows, columns = torch.sigmoid(self.rows(y_h)), torch.sigmoid(self.columns(y_w.permute(0, 1, 3, 2)))
        return x * (rows * columns) if self.spelling == "masks" else x * columns * rows


class Bam(nn.Module):
    """BAM (Park 2018) as the paper has it or as its authors' released code spells it."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.stem, self.spelling = stem(), spelling
        self.mlp = Mlp(inside="norm")
        wide = nn.Conv2d(C // R, C // R, 3, padding=4, dilation=4)
        layers = [nn.Conv2d(C, C // R, 1), nn.BatchNorm2d(C // R), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(C // R, 1, 1)]
        self.spatial = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        channel, plane = self.mlp(x.mean((2, 3)))[:, :, None, None], self.spatial(x)
        if self.spelling == "released":
            return (1 + torch.sigmoid(channel.expand_as(x) * plane.expand_as(x))) * x
        return x + x * torch.sigmoid(channel + plane)


def _sam(name: str, image: tuple = IMAGE, **options: object) -> None:
    kernel = options.get("kernel", 7)
    planes = str(options.get("planes", "max-mean"))
    pools = {"max-mean-min": ("max", "mean", "min"), "mean-alone": ("mean",)}.get(planes, ("max", "mean"))
    facts = {"channels": C, "kernel": (kernel, kernel), "pools": pools}
    FAMILY.add(f"sam-{name}", lambda: Sam(**options), image, Expected("sam", facts))  # type: ignore[arg-type]


for planes in PLANES:
    _sam(f"planes-{planes}", planes=planes)
for product in SPATIAL_PRODUCTS:
    _sam(f"product-{product}", product=product)
_sam("norm", norm=True)
_sam("bias", bias=True)
_sam("3x3", kernel=3)
_sam("dilated", kernel=3, dilation=2)
_sam("hard", gate="relu6-over-6", norm=True)
_sam("any-size", image=ANY)
FAMILY.add("sam-nhwc", SamOfNhwc, IMAGE, Expected("sam", {"channels": C, "kernel": (7, 7), "pools": ("max", "mean")}))
FAMILY.add("sam-two-convs", SamTwoConvs, IMAGE, Expected("sam", {"channels": C, "pools": ("max", "mean")}))
for way in ("pool", "mean", "masks"):
    found = Expected("coordinate", {"channels": C, "reduction": R, "pools": ("mean",)})
    FAMILY.add(f"coordinate-{way}", lambda w=way: Coordinate(w), IMAGE, found)
for way in ("paper", "released"):
    found = Expected("bam", {"channels": C, "reduction": R, "kernel": (3, 3), "pools": ("mean",)})
    FAMILY.add(f"bam-{way}", lambda w=way: Bam(w), IMAGE, found)
