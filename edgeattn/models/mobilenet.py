"""MobileNetV3-Large and -Small: inverted residuals with hard swish and SE with a hard sigmoid; a small one for digits.

Image (B, C, H, W) → 3×3 convolution of stride 2 → inverted residuals → 1×1 convolution → global mean (B, D) →
linear → hard swish → logits (B, classes). With x (B, I, H, W), expansion E and output O channels, an inverted
residual is

    e = δ(BN(f₁(x)))                f₁ 1×1, I → E; left out where E = I; e (B, E, H, W)
    d = SE(δ(BN(f₂(e))))            f₂ k×k, one filter a channel, stride s; d (B, E, H/s, W/s)
    y = BN(f₃(d))                   f₃ 1×1, E → O; y (B, O, H/s, W/s)
    y = y + x                       where s = 1 and I = O

    δ(t) is ReLU or the hard swish t · min(max(t + 3, 0), 6) / 6

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2, sections 5.2 (hard swish, hard sigmoid)
and 5.3 (SE on a quarter of the expansion).
Deviations: SE's hidden width is rounded to a multiple of 8, and table 2's SE on the last convolution of -Small is left
out, both as in the authors' released code and in the parameter counts usually quoted, 5,483,032 and 2,542,856 (the
paper says 5.4 M and 2.5 M). Multiply-accumulates at 224×224 are 216.6 M and 56.5 M by our count; the paper says 219 M
and 56 M. No dropout before the classifier. The last BatchNorm of a block starts at gain 1/√(number of sums) before a
sum and at √2 behind SE without one, so that an untrained network keeps its activations near unit size. The digits
variant has four blocks and no more than 240 channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from edgeattn.blocks.se import Se
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.program import TensorSpec

_EPS = 1e-3  # of every BatchNorm, as in the authors' released code
_ACTIVATIONS = {"RE": nn.ReLU, "HS": nn.Hardswish}


class Row(NamedTuple):
    """One inverted residual, a row of the paper's tables."""

    kernel: int
    expansion: int
    outputs: int
    se: bool
    activation: str
    stride: int


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps H and W up to its stride, and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=_EPS)]


class InvertedResidual(nn.Module):
    """One row of the tables; ``(B, inputs, H, W)`` to ``(B, outputs, H/stride, W/stride)``."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        kernel, wide, outputs, se, activation, stride = row
        self.summed = stride == 1 and inputs == outputs
        act = _ACTIVATIONS[activation]
        self.expand = nn.Sequential(*([*conv_norm(inputs, wide, 1), act()] if wide != inputs else []))
        self.depthwise = nn.Sequential(*conv_norm(wide, wide, kernel, stride, groups=wide), act())
        self.attention = Se(wide, reduction=4, gate="hard-sigmoid", multiple=8) if se else nn.Identity()
        self.project = nn.Sequential(*conv_norm(wide, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block."""
        y: torch.Tensor = self.project(self.attention(self.depthwise(self.expand(x))))
        return x + y if self.summed else y


class MobileNetV3(nn.Module):
    """MobileNetV3.

    Args:
        rows: the inverted residuals, as in the paper's tables.
        last: channels of the last convolution. hidden: width of the layer before the classifier.
        stem: channels of the first convolution. channels: of the image.
        size: of a square image; None takes any height and width.
        classes: number of logits. seed: of the initial weights.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        last: int,
        hidden: int,
        stem: int = 16,
        channels: int = 3,
        size: int | None = None,
        classes: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        with torch.random.fork_rng(devices=[]):  # layers draw from the global stream before they are initialised here
            self.stem = nn.Sequential(*conv_norm(channels, stem, 3, 2), nn.Hardswish())
            self.blocks = nn.Sequential(*_chain(stem, rows))
            self.last = nn.Sequential(*conv_norm(rows[-1].outputs, last, 1), nn.Hardswish())
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Sequential(nn.Linear(last, hidden), nn.Hardswish(), nn.Linear(hidden, classes))
        initialise(self, seed)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, channels, H, W)`` to logits ``(B, classes)``."""
        features = self.pool(self.last(self.blocks(self.stem(image))))
        logits: torch.Tensor = self.head(torch.flatten(features, 1))
        return logits


def _chain(channels: int, rows: Sequence[Row]) -> Iterator[InvertedResidual]:
    for row in rows:
        yield InvertedResidual(channels, row)
        channels = row.outputs


def initialise(net: MobileNetV3, seed: int) -> None:
    """He initialisation, seeded; each block's last gain makes up for its gate or its place among the sums."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(isinstance(block, InvertedResidual) and block.summed for block in net.blocks)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, InvertedResidual):
            last_norm = module.project[-1]
            assert isinstance(last_norm, nn.BatchNorm2d)
            # A gate that has learnt nothing is about 1/2, and more where the features are large.
            alone = 2**0.5 if isinstance(module.attention, Se) else 1.0
            nn.init.constant_(last_norm.weight, count**-0.5 if module.summed else alone)


def source(module: MobileNetV3) -> Source:
    """One graph: ``image`` in, ``logits`` out; batch is dynamic, and so are H and W unless the network fixes them."""
    space = ("height", "width") if module.size is None else (module.size, module.size)
    image = TensorSpec("image", "float32", ("batch", module.channels, *space))
    return Source({"main": GraphSource(module, (image,), ("logits",))})


_LARGE = (  # table 1
    Row(3, 16, 16, False, "RE", 1),
    Row(3, 64, 24, False, "RE", 2),
    Row(3, 72, 24, False, "RE", 1),
    Row(5, 72, 40, True, "RE", 2),
    Row(5, 120, 40, True, "RE", 1),
    Row(5, 120, 40, True, "RE", 1),
    Row(3, 240, 80, False, "HS", 2),
    Row(3, 200, 80, False, "HS", 1),
    Row(3, 184, 80, False, "HS", 1),
    Row(3, 184, 80, False, "HS", 1),
    Row(3, 480, 112, True, "HS", 1),
    Row(3, 672, 112, True, "HS", 1),
    Row(5, 672, 160, True, "HS", 2),
    Row(5, 960, 160, True, "HS", 1),
    Row(5, 960, 160, True, "HS", 1),
)
_SMALL = (  # table 2
    Row(3, 16, 16, True, "RE", 2),
    Row(3, 72, 24, False, "RE", 2),
    Row(3, 88, 24, False, "RE", 1),
    Row(5, 96, 40, True, "HS", 2),
    Row(5, 240, 40, True, "HS", 1),
    Row(5, 240, 40, True, "HS", 1),
    Row(5, 120, 48, True, "HS", 1),
    Row(5, 144, 48, True, "HS", 1),
    Row(5, 288, 96, True, "HS", 2),
    Row(5, 576, 96, True, "HS", 1),
    Row(5, 576, 96, True, "HS", 1),
)
_DIGITS = (
    Row(3, 64, 24, True, "RE", 2),
    Row(3, 96, 24, True, "RE", 1),
    Row(5, 120, 40, True, "HS", 2),
    Row(5, 240, 40, True, "HS", 1),
)

MODEL = Model(
    name="mobilenet",
    build=MobileNetV3,
    source=source,
    configs={
        "mobilenetv3_large": Config(
            {"rows": _LARGE, "last": 960, "hidden": 1280}, about="MobileNetV3-Large with SE, untrained: for latency"
        ),
        "mobilenetv3_small": Config(
            {"rows": _SMALL, "last": 576, "hidden": 1024}, about="MobileNetV3-Small with SE, untrained: for latency"
        ),
        "mobilenet_digits": Config(
            {"rows": _DIGITS, "last": 240, "hidden": 128, "channels": 1, "size": 32, "classes": 10},
            weights="mobilenet_digits",
            task="digits",
            about="small MobileNetV3 with SE for handwritten digits",
        ),
    },
    paper="Howard et al., Searching for MobileNetV3, ICCV 2019, tables 1 and 2",
)
