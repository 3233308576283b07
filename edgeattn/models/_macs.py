"""Multiply-accumulates of a module, counted while it runs."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def count_macs(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of every convolution and matrix product that runs in one forward pass.

    A module that runs twice (CBAM's shared MLP) counts twice; so do the products inside recurrent layers and of
    attention's weights with its values. Biases, norms, pools and gates count nothing, which is how the papers count.

    Args:
        module: any module; it is run once in eval mode, without gradients.
        inputs: what it is called with; ``meta`` tensors with a ``meta`` module cost no time.
    """
    training = module.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            # Detached: the counter cannot track a view of a parameter, which asks for a gradient and has none here.
            frozen = {name: value.detach() for name, value in module.named_parameters()}
            functional_call(module.eval(), frozen, inputs)
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2  # a multiply-accumulate is counted as two operations
