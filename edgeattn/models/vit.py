"""Vision Transformer: an image is a sequence of patches, and a class token's last state becomes the logits.

    z₀ = [x_class; x₁E + b; …; x_N E + b] + E_pos    patches x_i (P²·C), E (P²·C, D), E_pos (N + 1, D), N = H·W / P²
    z′ = MSA(LN(z)) + z;  z ← MLP(LN(z′)) + z′       L times; z (B, N + 1, D): see the card of ``mha``; MLP D → M → D
    logits = W LN(z_L⁰) + b_h                        z_L⁰ (B, D) the class token's state, W (classes, D)

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, section 3.1, equations 1 to 4, and table 1 for
ViT-B; Touvron et al., "Training data-efficient image transformers", ICML 2021, table 1, for S and Ti.
Deviations: every linear map has a bias and every LayerNorm ε = 1e-6, as in the authors' code, which the equations do
not say. E is written as a convolution of stride P. Positions are learned for one H and W, so these are fixed. The head
is one linear map, as the paper's after fine-tuning; it starts like the others, not at zero, so that an untrained
network (these are used to measure latency) has logits to compare. No dropout.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.errors import UsageError
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.models._transformer import Layer, initialise
from edgeattn.program import TensorSpec

EPS = 1e-6  # of every LayerNorm


class Vit(nn.Module):
    """A Vision Transformer.

    Args:
        size: H = W. patch: P. channels: C of the image.
        width: D. layers: L. heads: attention heads. hidden: M.
        classes: number of logits. seed: of the initial weights.

    Raises:
        UsageError: the image does not split into patches, or the width into heads.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        channels: int = 3,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        classes: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if size % patch:
            raise UsageError(
                f"an image of {size} does not split into patches of {patch}", hint="choose a patch that divides it"
            )
        self.image = (channels, size, size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Conv2d(channels, width, patch, stride=patch)
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
            self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
            self.layers = nn.Sequential(*(Layer(width, heads, hidden, eps=EPS) for _ in range(layers)))
            self.norm = nn.LayerNorm(width, eps=EPS)
            self.head = nn.Linear(width, classes)
            initialise(self)
            nn.init.trunc_normal_(self.embed.weight, std=(channels * patch**2) ** -0.5)  # patches keep their variance

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, C, H, W)`` to logits ``(B, classes)``."""
        patches = self.embed(image).flatten(2).transpose(1, 2)  # (B, N, D)
        z = torch.cat((self.class_token.expand(patches.shape[0], -1, -1), patches), 1) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.layers(z)[:, 0]))
        return logits


def source(module: Vit) -> Source:
    """One graph: ``image`` in, ``logits`` out; only the batch is dynamic."""
    image = TensorSpec("image", "float32", ("batch", *module.image))
    return Source({"main": GraphSource(module, (image,), ("logits",))})


def _large(about: str, width: int, heads: int) -> Config:
    options = {"width": width, "heads": heads, "hidden": 4 * width}
    return Config(options, about=f"ViT-{about}/16 at 224×224, untrained: for latency")


MODEL = Model(
    name="vit",
    build=Vit,
    source=source,
    configs={
        "vit_tiny": _large("Ti", 192, 3),
        "vit_small": _large("S", 384, 6),
        "vit_base": _large("B", 768, 12),
        "vit_digits": Config(
            {
                "size": 32,
                "patch": 8,
                "channels": 1,
                "width": 64,
                "layers": 4,
                "heads": 4,
                "hidden": 128,
                "classes": 10,
            },
            weights="vit_digits",
            task="digits",
            training={"epochs": 100, "peak_rate": 4e-3, "weight_decay": 0.1},
            about="small Vision Transformer for handwritten digits",
        ),
    },
    paper="Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, section 3.1, equations 1-4",
)
