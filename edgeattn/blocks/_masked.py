"""The softmax over valid positions that every alignment ends in."""

from __future__ import annotations

import torch


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis where the bool ``mask`` (broadcast to ``scores``) is True, and 0 elsewhere.

    A row without any valid position gives zeros, as ONNX's Attention operator defines it.
    """
    scores = scores.masked_fill(~mask, float("-inf"))
    # softmax of a row that is all -inf is NaN: the second fill turns it into zeros.
    return torch.softmax(scores, dim=scores.ndim - 1).masked_fill(~mask, 0.0)
