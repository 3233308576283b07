"""Your own data and metric in one file: a page of scanned digits, every one to be found, boxed and named.

A page is 80x80 pixels with eight scans of scikit-learn's handwritten digits at random places. The head this task is for
(`your_model.py`) reads feature maps, not pixels: here a fixed filter bank of 4x4 patches of ink and of edges stands in
for a backbone. A detection is a cell with a score above one half; it is right where a digit's centre lies in that
cell, its class is the digit's, and the two boxes overlap by half (IoU). The score of a page is F1 over its detections.

Train and test pages are made of different scans: three of four are for training, the fourth is held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from edgeattn.tasks import Batch, Metric, Task

PAGE, CELL, SCAN, DIGITS = 80, 4, 8, 8
CELLS, CLASSES, PAGES = PAGE // CELL, 10, 200


@cache
def scans(part: str) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    mine = (np.arange(len(data.target)) % 4 == 0) == (part == "test")
    return data.images[mine].astype(np.float32) / 16, data.target[mine]


def page(part: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (80, 80) and what is on them (8, 5): class, left, top, width, height in pixels."""
    rng = np.random.default_rng((number, part == "test"))
    images, labels = scans(part)
    pixels, found = np.zeros((PAGE, PAGE), np.float32), []
    slots = rng.permutation((PAGE // 16) ** 2)[:DIGITS]  # one digit a 16x16 square, anywhere inside it
    for slot, index in zip(slots, rng.integers(0, len(labels), DIGITS), strict=True):
        top, left = np.array(divmod(slot, PAGE // 16)) * 16 + rng.integers(0, 16 - SCAN + 1, 2)
        pixels[top : top + SCAN, left : left + SCAN] = images[index]
        inked = images[index] > 0
        rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
        x, y, w, h = columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        found.append((labels[index], left + x, top + y, w, h))
    return pixels, np.array(found, np.float32)


def features(pixels: np.ndarray) -> np.ndarray:
    """Pixels (B, 80, 80) to feature maps (B, 32, 20, 20): every 4x4 patch of ink, and of its vertical edges."""
    edges = np.diff(pixels, axis=2, prepend=np.float32(0))
    stacked = np.stack((pixels, edges), 1).reshape(len(pixels), 2, CELLS, CELL, CELLS, CELL)
    return np.ascontiguousarray(stacked.transpose(0, 1, 3, 5, 2, 4).reshape(len(pixels), 32, CELLS, CELLS))


def batches(part: str, samples: int | None, size: int) -> Iterator[Batch]:
    for start in range(0, samples or PAGES, size):
        pages = [page(part, n) for n in range(start, min(start + size, samples or PAGES))]
        yield Batch({"features": features(np.stack([p for p, _ in pages]))}, np.stack([t for _, t in pages]))


def centres(objects: np.ndarray) -> np.ndarray:
    """Objects (…, 5) to the cells that hold their centres, (…, 2): row and column."""
    return ((objects[..., [2, 1]] + objects[..., [4, 3]] / 2) // CELL).astype(int)


def score(outputs: dict[str, np.ndarray], targets: np.ndarray) -> np.ndarray:
    """F1 of every page's detections; `output_0` is boxes (B, 4, H, W), `output_1` class logits (B, 10, H, W)."""
    boxes, logits = outputs["output_0"], outputs["output_1"]
    detected = logits.max(1) > 0
    result = np.zeros(len(targets))
    for i, objects in enumerate(targets):
        right = 0
        for thing, (row, column) in zip(objects, centres(objects), strict=True):
            named = detected[i, row, column] and logits[i, :, row, column].argmax() == thing[0]
            right += bool(named and overlap(boxes[i, :, row, column], thing[1:], row, column) >= 0.5)
        result[i] = 2 * right / (detected[i].sum() + len(objects))
    return result


def overlap(box: np.ndarray, true: np.ndarray, row: int, column: int) -> float:
    """Intersection over union; `box` is the centre's offset from the cell's and the logarithm of the size, in cells."""
    size = np.exp(np.clip(box[2:], -5, 5)) * CELL
    corner = (np.array([column, row]) + 0.5 + box[:2]) * CELL - size / 2
    shared = np.minimum(corner + size, true[:2] + true[2:]) - np.maximum(corner, true[:2])
    inside = float(np.prod(np.maximum(shared, 0)))
    return inside / float(np.prod(size) + np.prod(true[2:]) - inside)


TASK = Task(
    name="pages",
    metric=Metric("f1"),
    train=lambda samples, batch: batches("train", samples, batch),
    test=lambda samples, batch: batches("test", samples, batch),
    score=score,
    assets=dict,
    predict=lambda outputs, count: [],  # boxes are real numbers: nothing to compare for equality
    about="digits on a page: F1 of boxed and named digits, 200 held-out pages",
)
