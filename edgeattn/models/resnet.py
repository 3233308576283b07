"""ResNet-18, 34, 50 and 101 with any attention that weighs a feature map, and a small one for 32×32 digits.

Image (B, C, H, W) → stem → four stages of residual blocks → global mean (B, D) → logits (B, classes). A block is
y = ReLU(x + A(F(x))), where A is the attention, after the last BatchNorm of the residual branch and before the sum.
BAM alone sits between the stages, once at the end of each but the last: y = A(stage(x)).

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1 (stride on the 1×1
convolution of a bottleneck, as published); Hu et al. 2018, figure 3; Woo et al. 2018, figure 3; for BAM's place Park et
al. 2018, section 3 and figure 1.
Deviations: the last BatchNorm of each branch starts at gain 1/√(number of blocks), so that an untrained network keeps
its activations near unit size (these are used to measure latency); the digits variant has a 3×3 stem of stride 2, no
pool, and one basic block a stage. Each attention takes its paper's reduction ratio, the digits variant 8. ResNet-50
with BAM has 25,917,793 parameters, the paper's 25.92 M; BatchNorms where the authors' released code has them would make
it 2,694 fewer (see the card of ``bam``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from edgeattn import registry
from edgeattn.errors import UsageError
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.program import TensorSpec

PLACES = ("branch", "stage")
_IDENTITY = "none"


def attention_of(name: str, channels: int, reduction: int | None = None, **options: Any) -> nn.Module:
    """The attention block ``name`` for ``channels``; ``none`` is the identity.

    Args:
        name: of a block. channels: C.
        reduction: R, for blocks that have one; None is the block's own.
        options: the block's others, such as CBAM's ``order``.

    Raises:
        UnknownName: no such block. UsageError: the block attends to a memory instead of weighing a feature map.
    """
    if name == _IDENTITY:
        return nn.Identity()
    block = registry.get("blocks", name)
    if not block.gates:
        known = [n for n in registry.names("blocks") if registry.get("blocks", n).gates]
        raise UsageError(f"'{name}' weighs no feature map", where="attention", hint=f"one of: {', '.join(known)}")
    if reduction is not None and "reduction" in inspect.signature(block.build).parameters:
        options["reduction"] = reduction
    module: nn.Module = block.build(channels, **options)
    return module


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps H and W up to its stride, and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """``ReLU(shortcut(x) + attention(branch(x)))``; ``(B, C_in, H, W)`` to ``(B, C_out, H/stride, W/stride)``."""

    def __init__(self, branch: Sequence[nn.Module], shortcut: Sequence[nn.Module], attention: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.attention = attention
        self.shortcut = nn.Sequential(*shortcut)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block."""
        y: torch.Tensor = self.relu(self.attention(self.branch(x)) + self.shortcut(x))
        return y


def basic(inputs: int, width: int, stride: int) -> list[nn.Module]:
    """Two 3×3 convolutions: the residual branch of ResNet-18 and 34."""
    return [*conv_norm(inputs, width, 3, stride), nn.ReLU(), *conv_norm(width, width, 3)]


def bottleneck(inputs: int, width: int, stride: int) -> list[nn.Module]:
    """1×1, 3×3, 1×1 with four times the width at the end; the stride is on the first 1×1."""
    head = [*conv_norm(inputs, width, 1, stride), nn.ReLU(), *conv_norm(width, width, 3), nn.ReLU()]
    return [*head, *conv_norm(width, 4 * width, 1)]


def residual_blocks(
    stages: Sequence[tuple[int, int]], channels: int, deep: bool, attention: Callable[[int], nn.Module], place: str
) -> Iterator[nn.Module]:
    """The blocks of all stages, each ``(depth, width)``; every stage but the first halves H and W."""
    for stage, (depth, width) in enumerate(stages):
        outputs = 4 * width if deep else width
        for index in range(depth):
            stride = 2 if stage and not index else 1
            branch = (bottleneck if deep else basic)(channels, width, stride)
            shortcut = [] if (channels, stride) == (outputs, 1) else conv_norm(channels, outputs, 1, stride)
            yield Residual(branch, shortcut, attention(outputs) if place == "branch" else nn.Identity())
            channels = outputs
        if place == "stage" and stage + 1 < len(stages):
            yield attention(outputs)


class ResNet(nn.Module):
    """A residual network.

    Args:
        depths: residual blocks per stage. widths: their channels (a bottleneck puts out four times as many).
        deep: bottleneck blocks instead of basic ones.
        attention: ``none`` or the name of an attention block. reduction: R of its channel gate, None for its paper's.
        attention_options: the block's others, such as CBAM's ``order``.
        place: the attention ends each residual ``branch``, or each ``stage`` but the last.
        digits: the small stem for one-channel 32×32 images.
        classes: number of logits. seed: of the initial weights.

    Raises:
        UsageError: an unknown place, or an attention that weighs no feature map. UnknownName: no such attention.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        deep: bool = True,
        attention: str = _IDENTITY,
        reduction: int | None = None,
        attention_options: Mapping[str, Any] | None = None,
        place: str = "branch",
        digits: bool = False,
        classes: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if place not in PLACES:
            raise UsageError(f"unknown place '{place}'", where="place", hint=f"known: {', '.join(PLACES)}")
        self.digits = digits
        attend = partial(attention_of, attention, reduction=reduction, **(attention_options or {}))
        with torch.random.fork_rng(devices=[]):  # layers draw from the global stream before they are initialised here
            stem = conv_norm(1, widths[0], 3, 2) if digits else conv_norm(3, widths[0], 7, 2)
            self.stem = nn.Sequential(*stem, nn.ReLU(), *([] if digits else [nn.MaxPool2d(3, 2, 1)]))
            stages = list(zip(depths, widths, strict=True))
            self.blocks = nn.Sequential(*residual_blocks(stages, widths[0], deep, attend, place))
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(4 * widths[-1] if deep else widths[-1], classes)
        initialise(self, seed)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, 3, H, W)`` (digits: ``(B, 1, 32, 32)``) to logits ``(B, classes)``."""
        features = self.pool(self.blocks(self.stem(image)))
        logits: torch.Tensor = self.head(torch.flatten(features, 1))
        return logits


def initialise(net: ResNet, seed: int) -> None:
    """He initialisation, seeded; residual branches scaled down so that their sum stays near unit size."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(isinstance(block, Residual) for block in net.blocks)
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Residual):
            last_norm = module.branch[-1]
            assert isinstance(last_norm, nn.BatchNorm2d)
            nn.init.constant_(last_norm.weight, count**-0.5)


def source(module: ResNet) -> Source:
    """One graph: ``image`` in, ``logits`` out; batch is dynamic, and so are H and W of the large networks."""
    shape = ("batch", 1, 32, 32) if module.digits else ("batch", 3, "height", "width")
    return Source({"main": GraphSource(module, (TensorSpec("image", "float32", shape),), ("logits",))})


_DEPTHS: dict[str, dict[str, object]] = {
    "resnet18": {"depths": (2, 2, 2, 2), "deep": False},
    "resnet34": {"depths": (3, 4, 6, 3), "deep": False},
    "resnet50": {"depths": (3, 4, 6, 3), "deep": True},
    "resnet101": {"depths": (3, 4, 23, 3), "deep": True},
}
_DIGITS: dict[str, object] = {
    "depths": (1, 1, 1),
    "widths": (32, 64, 128),
    "deep": False,
    "digits": True,
    "classes": 10,
    "reduction": 8,
}
_ATTENTIONS: dict[str, tuple[str, dict[str, object]]] = {  # prefix -> what people call it, and its options
    "": ("", {}),
    "se_": ("SE", {"attention": "se"}),
    "eca_": ("ECA", {"attention": "eca"}),
    "cam_": ("CBAM's channel attention", {"attention": "cam"}),
    "sam_": ("CBAM's spatial attention", {"attention": "sam"}),
    "cbam_": ("CBAM", {"attention": "cbam"}),
    "bam_": ("BAM between its stages", {"attention": "bam", "place": "stage"}),
    "coordinate_": ("coordinate attention", {"attention": "coordinate"}),
}
_ORDERS = {"spatial-first": "the spatial half first", "parallel": "both halves at once"}  # CBAM's other two


def _configs() -> dict[str, Config]:
    """Every attention in every depth, CBAM's other orders at 18 and 50 layers, and the trained digits readers."""
    configs = {}
    for prefix, (label, options) in _ATTENTIONS.items():
        extra = f" with {label}" if label else ""
        for name, depth in _DEPTHS.items():
            about = f"ResNet-{name[6:]}{extra}, untrained: for latency"
            configs[prefix + name] = Config({**depth, **options}, about=about)
        name = f"{prefix or 'resnet_'}digits"
        about = f"small ResNet{extra} for handwritten digits"
        configs[name] = Config({**_DIGITS, **options}, weights=name, task="digits", about=about)
    for order, label in _ORDERS.items():
        for name in ("resnet18", "resnet50"):
            about = f"ResNet-{name[6:]} with CBAM, {label}, untrained: for latency"
            cbam = {"attention": "cbam", "attention_options": {"order": order}}
            configs[f"cbam_{order.replace('-', '_')}_{name}"] = Config({**_DEPTHS[name], **cbam}, about=about)
    return configs


MODEL = Model(
    name="resnet",
    build=ResNet,
    source=source,
    configs=_configs(),
    paper="He et al., Deep Residual Learning, CVPR 2016, table 1; Hu et al. 2018; Woo et al. 2018",
)
