"""Multiply-accumulates of a module, counted while it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def count_macs(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of every Conv2d and Linear that runs in one forward pass.

    A module that runs twice (CBAM's shared MLP) counts twice; biases, norms, pools and gates count nothing, which is
    how the papers count.

    Args:
        module: any module; it is run once in eval mode, without gradients.
        inputs: what it is called with; ``meta`` tensors with a ``meta`` module cost no time.
    """
    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            height, width = layer.kernel_size
            total += output.numel() * (layer.in_channels // layer.groups) * height * width
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(*inputs)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return total
