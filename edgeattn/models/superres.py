"""A residual super-resolution network with CBAM: a picture in, the same picture at twice the resolution out.

    f₀ = W_h * (x − ½)                              x (B, 3, H, W) in [0, 1], f₀ (B, C, H, W)
    f_i = f_{i−1} + A_i(W_i₂ * ReLU(W_i₁ * f_{i−1}))     i = 1 … N, A_i the attention block (CBAM)
    g = f₀ + W_b * f_N                              the long skip
    y = U(x) + W_t * S(W_u * g)                     W_u: C → 4C, S (B, 4C, H, W) → (B, C, 2H, 2W), y (B, 3, 2H, 2W)

S is the sub-pixel convolution's shuffle (ONNX DepthToSpace, CRD). U is bicubic interpolation by 2 as a fixed
depthwise 5×5 convolution to four phases and the same shuffle, so the network learns what bicubic lacks. Batch, H and W
are free. ``cbam_superres_x2`` has the baseline dimensions of EDSR (N = 16, C = 64).

Source: Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR Workshops
2017, sections 3.1–3.2, figures 2c and 3; Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016, section 3.2, equation 4; Kim, Lee, Lee, "Accurate Image
Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016, section 3 (learning the residual to the bicubic
image); Woo et al., CBAM, ECCV 2018, section 3.
Deviations: EDSR has neither attention nor the skip U; ½ stands for its mean colour. The last convolution of each branch
starts small, and that of the tail at a tenth, so that an untrained network gives about the bicubic image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn import cases
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.models.resnet import attention_of
from edgeattn.program import TensorSpec
from edgeattn.tasks.superresolution import FACTOR, bicubic

_CASE_SIZES = {"height": (48, 40), "width": (48, 56)}  # 48 is the patch EDSR is trained on
_MEAN = 0.5


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3×3 convolution that keeps H and W."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResidualBlock(nn.Module):
    """``x + attention(last(ReLU(first(x))))``, without normalisation; ``(B, C, H, W)`` to the same shape."""

    def __init__(self, channels: int, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.relu, self.last = conv3(channels, channels), nn.ReLU(), conv3(channels, channels)
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block."""
        y: torch.Tensor = x + self.attention(self.last(self.relu(self.first(x))))
        return y


class BicubicUpscale(nn.Module):
    """Bicubic interpolation by 2 with the border repeated: ``(B, 3, H, W)`` to ``(B, 3, 2H, 2W)``; nothing to learn."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        middle = bicubic(5, 5 * FACTOR)[2 * FACTOR : 3 * FACTOR]  # (phases, taps) of a pixel far from the border
        phases = np.einsum("ai,bj->abij", middle, middle).reshape(FACTOR**2, 1, 5, 5)
        kernel = torch.from_numpy(np.tile(phases, (3, 1, 1, 1)).astype(np.float32))
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Interpolate."""
        padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
        return functional.pixel_shuffle(functional.conv2d(padded, self.kernel, groups=3), FACTOR)


class SuperResolution(nn.Module):
    """The network.

    Args:
        blocks: N. channels: C.
        attention: ``none`` or the name of an attention block. reduction: R of its channel gate.
        seed: of the initial weights.
    """

    def __init__(
        self, blocks: int = 16, channels: int = 64, attention: str = "cbam", reduction: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers draw from the global stream before they are initialised here
            self.head = conv3(3, channels)
            gates = (attention_of(attention, channels, reduction) for _ in range(blocks))
            self.blocks = nn.Sequential(*(ResidualBlock(channels, gate) for gate in gates))
            self.body = conv3(channels, channels)
            self.up = nn.Sequential(conv3(channels, FACTOR**2 * channels), nn.PixelShuffle(FACTOR))
            self.tail = conv3(channels, 3)
            self.skip = BicubicUpscale()
        initialise(self, self.tail, blocks, seed)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, 3, H, W)`` to ``(B, 3, 2H, 2W)``; not clipped."""
        shallow = self.head(image - _MEAN)
        deep = shallow + self.body(self.blocks(shallow))
        restored: torch.Tensor = self.skip(image) + self.tail(self.up(deep))
        return restored


def initialise(net: nn.Module, tail: nn.Conv2d, depth: int, seed: int) -> None:
    """Seeded He initialisation, biases at 0; branches (``depth`` follow one another) and the ``tail`` start small."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    branches = [module.last for module in net.modules() if isinstance(module, ResidualBlock)]
    with torch.no_grad():
        for conv in branches:
            conv.weight.mul_(depth**-0.5)
        tail.weight.mul_(0.1)


def source(module: SuperResolution) -> Source:
    """One graph: ``image`` in, ``restored`` out; batch, H and W are dynamic."""
    specs = (TensorSpec("image", "float32", ("batch", 3, "height", "width")),)
    graph = GraphSource(module, specs, ("restored",))
    return Source({"main": graph}, cases=lambda seed: cases.draw(specs, seed, _CASE_SIZES))


MODEL = Model(
    name="superres",
    build=SuperResolution,
    source=source,
    configs={
        "cbam_superres_x2": Config(
            {"blocks": 16, "channels": 64},
            about="CBAM super-resolution by 2 in EDSR-baseline's dimensions, untrained: for latency",
        ),
        "cbam_superres": Config(
            {"blocks": 6, "channels": 32, "reduction": 8},
            weights="cbam_superres",
            task="superresolution",
            about="small CBAM super-resolution network: photographs at twice the resolution",
        ),
    },
    paper="Lim et al., EDSR, CVPR Workshops 2017, section 3.2; Shi et al., ESPCN, CVPR 2016; Woo et al. 2018",
)
