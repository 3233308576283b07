"""What a photograph may go through without ceasing to be one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeattn.program import Array


def turned(images: Array, random: np.random.RandomState) -> Array:
    """Square images ``(B, C, H, W)``, turned by random quarters; half of them also flipped upside down."""
    result = np.empty_like(images)
    for i, image in enumerate(images):
        quarter = np.rot90(image, random.randint(4), axes=(1, 2))
        result[i] = quarter[:, ::-1] if random.randint(2) else quarter
    return result
