"""Perceiver for images: a few latents read every pixel by cross-attention, then think among themselves; repeated.

    m = [image; γ]                               m (B, S, E), S = H·W pixels of C channels, E = C + 2·(2K + 1)
    γ = [x_d, sin(π f_k x_d), cos(π f_k x_d)]    Fourier features: d = row, column; x_d from -1 to 1;
                                                 k = 1…K, f_k evenly spaced from 1 to μ/2, μ = H, the sampling rate
    x ← x + A(LN(x), LN(m)); x ← x + F(LN(x))    R cross-attentions, x (B, N, D): the cards of ``latent`` and ``mha``
    x ← x + A(LN(x)); x ← x + F(LN(x))           L layers after each of them; F: D → D → D with a GELU between
    logits = W (mean of x over N) + b            W (classes, D)
    Shared: the 2nd to the R-th cross-attention are one, and so are the R latent transformers.

Source: Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021, sections 3.1, 3.2 (position
encodings) and 4.1 (ImageNet: N = 512, D = 1024, R = 8, L = 6, K = 64, one head to read and 8 to think).
Deviations: what the text leaves open is chosen as follows: all linear maps have biases, LayerNorm ε = 1e-5, F is as
wide as its input, and cross-attention's heads together as wide as the memory. So built, the ImageNet model has
44,912,254 parameters and 353.1 GMACs; the paper gives 44.9 M and 707.2 GFLOPs. Features are ordered by d, then
position, sines, cosines. H and W are fixed, as γ is a table. Every read projects its memory anew, as written. No
dropout.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeattn import registry
from edgeattn.blocks.latent import CrossAttention
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.models._transformer import FeedForward, Layer, initialise
from edgeattn.program import TensorSpec


def fourier(size: int, bands: int) -> torch.Tensor:
    """γ ``(size², 2 · (2 · bands + 1))`` float64 of a square image's pixels, row by row."""
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    frequencies = torch.linspace(1, size / 2, bands, dtype=torch.float64)
    angles = math.pi * line.unsqueeze(1) * frequencies  # (size, K)
    features = torch.cat((line.unsqueeze(1), angles.sin(), angles.cos()), 1)  # (size, 2K + 1)
    rows = features.unsqueeze(1).expand(-1, size, -1)
    return torch.cat((rows, rows.transpose(0, 1)), 2).flatten(0, 1)


class Dense(nn.Module):
    """``x + F(LN(x))``, which follows a cross-attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, N, D)`` to the same shape."""
        y: torch.Tensor = x + self.feed_forward(self.norm(x))
        return y


class Perceiver(nn.Module):
    """A Perceiver that classifies square images.

    Args:
        size: H = W. channels: C. bands: K.
        latents: N. width: D.
        reads: R, cross-attentions. read_heads: their heads. read_width: of all these heads; E when not given.
        layers: L, self-attention layers after each read. heads: theirs.
        classes: number of logits. seed: of the initial weights.
    """

    features: torch.Tensor

    def __init__(
        self,
        size: int = 224,
        channels: int = 3,
        bands: int = 64,
        latents: int = 512,
        width: int = 1024,
        reads: int = 8,
        read_heads: int = 1,
        read_width: int | None = None,
        layers: int = 6,
        heads: int = 8,
        classes: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.image, self.reads = (channels, size, size), reads
        features = fourier(size, bands).to(torch.get_default_dtype())
        self.register_buffer("features", features.unsqueeze(0), persistent=False)  # (1, S, E - C)
        memory = channels + features.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = registry.get("blocks", "latent").build(
                memory, latents=latents, width=width, heads=read_heads, inner=read_width
            )
            self.first_dense = Dense(width)
            if reads > 1:
                self.again = CrossAttention(memory, width, read_heads, read_width)
                self.again_dense = Dense(width)
            self.think = nn.Sequential(*(Layer(width, heads, width) for _ in range(layers)))
            self.head = nn.Linear(width, classes)
            initialise(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, C, H, W)`` to logits ``(B, classes)``."""
        memory = self._bytes(image)
        x = self.think(self.first_dense(self.first(memory)[0]))
        for _ in range(self.reads - 1):
            x = self.think(self.again_dense(self.again(x, memory)[0]))
        logits: torch.Tensor = self.head(x.mean(1))
        return logits

    def _bytes(self, image: torch.Tensor) -> torch.Tensor:
        """The byte array m ``(B, S, E)``."""
        pixels = image.flatten(2).transpose(1, 2)
        return torch.cat((pixels, self.features.expand(image.shape[0], -1, -1)), 2)


def source(module: Perceiver) -> Source:
    """One graph: ``image`` in, ``logits`` out; only the batch is dynamic."""
    image = TensorSpec("image", "float32", ("batch", *module.image))
    return Source({"main": GraphSource(module, (image,), ("logits",))})


MODEL = Model(
    name="perceiver",
    build=Perceiver,
    source=source,
    configs={
        "perceiver_imagenet": Config({}, about="Perceiver of the paper's ImageNet size, untrained: heavy, for size"),
        "perceiver_small": Config(
            {"latents": 128, "width": 256, "reads": 2, "read_width": 64, "layers": 4},
            about="smaller Perceiver at 224×224, untrained: for latency",
        ),
        "perceiver_digits": Config(
            {
                "size": 32,
                "channels": 1,
                "bands": 8,
                "latents": 16,
                "width": 96,
                "reads": 2,
                "read_heads": 1,
                "read_width": 32,
                "layers": 2,
                "heads": 4,
                "classes": 10,
            },
            weights="perceiver_digits",
            task="digits",
            training={"epochs": 72, "peak_rate": 2e-3, "weight_decay": 0.1},
            about="small Perceiver for handwritten digits, pixel by pixel",
        ),
    },
    paper="Jaegle et al., Perceiver: General Perception with Iterative Attention, ICML 2021, sections 3.1 and 3.2",
)
