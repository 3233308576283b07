"""A denoising autoencoder with attention: a noisy picture in, the clean one out, at the same size.

    e₀ = φ(W_h * (x − ½))               x (B, 3, H, W) in [0, 1], e₀ (B, C, H, W), φ = ReLU
    e_k = E_k(φ(D_k * e_{k−1}))         D_k of stride 2, e_k (B, 2ᵏC, H/2ᵏ, W/2ᵏ), k = 1, 2
    d₂ = A(e₂)                          A the attention block (CBAM), at the bottleneck and in each decoder stage
    d_k = A(E′_k(φ(S(U_k * d_{k+1}) + e_k)))     k = 1, 0; S the sub-pixel shuffle, the sum is the skip
    y = x + W_t * d₀                    the network gives the noise, negated; y (B, 3, H, W)

E and E′ are residual blocks, z + W₂ * φ(W₁ * z). Batch is free, and so are H and W: a picture is extended to multiples
of 4 by repeating its last row and column, and what comes of them is cut off again.

Source: Mao, Shen, Yang, "Image Restoration Using Very Deep Convolutional Encoder-Decoder Networks with Symmetric Skip
Connections", NIPS 2016, section 2 (skips are sums); Zhang et al., DnCNN, IEEE TIP 26(7), 2017, section III, equation 1
(the network learns the noise); Shi et al., ESPCN, CVPR 2016, section 3.2 (sub-pixel upsampling); Woo et al., CBAM, ECCV
2018, section 3.
Deviations: Mao et al. neither shrink the features nor use attention; two stages of stride 2 pay for the channels here.
There is no BatchNorm outside CBAM. The last convolution of the tail starts at a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from edgeattn import cases
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.models.resnet import attention_of
from edgeattn.models.superres import ResidualBlock, conv3, initialise
from edgeattn.program import Case, TensorSpec

_CASE_SIZES = {"height": (64, 41), "width": (64, 58)}  # the second size is no multiple of 4
_MEAN = 0.5
STRIDE = 4


class Up(nn.Module):
    """A decoder stage: ``(B, 2C, H, W)`` and the encoder's ``(B, C, 2H, 2W)`` to ``(B, C, 2H, 2W)``."""

    def __init__(self, channels: int, depth: int, attention: nn.Module) -> None:
        super().__init__()
        self.up = nn.Sequential(conv3(2 * channels, 4 * channels), nn.PixelShuffle(2))
        self.blocks = residual_blocks(channels, depth)
        self.attention = attention

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Enlarge, add the skip, refine, attend."""
        y: torch.Tensor = self.attention(self.blocks(torch.relu(self.up(x) + skip)))
        return y


def residual_blocks(channels: int, depth: int) -> nn.Sequential:
    """``depth`` residual blocks without attention."""
    return nn.Sequential(*(ResidualBlock(channels, nn.Identity()) for _ in range(depth)))


def down(channels: int, depth: int) -> nn.Sequential:
    """An encoder stage: ``(B, C, H, W)`` to ``(B, 2C, H/2, W/2)``."""
    halve = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
    return nn.Sequential(halve, nn.ReLU(), *residual_blocks(2 * channels, depth))


class Denoiser(nn.Module):
    """The network.

    Args:
        channels: C. depth: residual blocks a stage.
        attention: ``none`` or the name of an attention block. reduction: R of its channel gate.
        seed: of the initial weights.
    """

    def __init__(
        self, channels: int = 64, depth: int = 2, attention: str = "cbam", reduction: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers draw from the global stream before they are initialised here
            self.head = nn.Sequential(conv3(3, channels), nn.ReLU())
            self.down1, self.down2 = down(channels, depth), down(2 * channels, depth)
            self.bottleneck = attention_of(attention, 4 * channels, reduction)
            self.up1 = Up(2 * channels, depth, attention_of(attention, 2 * channels, reduction))
            self.up2 = Up(channels, depth, attention_of(attention, channels, reduction))
            self.tail = conv3(channels, 3)
        initialise(self, self.tail, depth, seed)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, 3, H, W)`` to the restored one, same shape; not clipped."""
        height, width = image.shape[-2:]
        whole = functional.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        full = self.head(whole - _MEAN)
        half = self.down1(full)
        noise = self.tail(self.up2(self.up1(self.bottleneck(self.down2(half)), half), full))
        restored: torch.Tensor = whole + noise
        return restored[..., :height, :width]


def source(module: Denoiser) -> Source:
    """One graph: ``image`` in, ``restored`` out; batch, H and W are dynamic."""
    specs = (TensorSpec("image", "float32", ("batch", 3, "height", "width")),)
    graph = GraphSource(module, specs, ("restored",))
    return Source({"main": graph}, cases=lambda seed: _pictures(specs, seed))


def _pictures(specs: Sequence[TensorSpec], seed: int) -> list[Case]:
    """The usual cases but the large one: no picture has values of 64, and there the gates' logits reach thousands, so
    that the sign of one, and with it a whole channel, hangs on how an engine adds up."""
    return [case for case in cases.draw(specs, seed, _CASE_SIZES) if case.name != "large"]


MODEL = Model(
    name="denoiser",
    build=Denoiser,
    source=source,
    configs={
        "cbam_denoiser_large": Config(
            {"channels": 64, "depth": 2},
            about="CBAM denoising autoencoder of 64 to 256 channels, untrained: for latency",
        ),
        "cbam_denoiser": Config(
            {"channels": 16, "depth": 1, "reduction": 8},
            weights="cbam_denoiser",
            task="denoising",
            about="small CBAM denoising autoencoder: Gaussian noise of 25/255 on photographs",
        ),
    },
    paper="Mao et al., NIPS 2016, section 2; Zhang et al., DnCNN, IEEE TIP 2017, equation 1; Woo et al., CBAM, 2018",
)
