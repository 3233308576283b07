"""A model edgeattn has never seen: a small detector head with its own spelling of CBAM.

    edgeattn run examples/your_model.yaml -o runs/mine
    edgeattn export examples/your_model.py:head -o head.onnx --shape features=1x32x20x20
    python examples/your_model.py        # train it again: writes examples/your_model.pt, about two minutes

Its weights are a state_dict that `torch.save` wrote, `your_model.pt` (with export: --weights examples/your_model.pt);
its data and its metric are `your_task.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

WEIGHTS = Path(__file__).with_suffix(".pt")


class Attention(nn.Module):
    """Channel then spatial attention as found in many detectors: 1x1 convolutions, mean before max."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.excite = nn.Conv2d(channels // 8, channels, 1, bias=False)
        self.locate = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.mlp(mean) + self.mlp(peak))
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.locate(pooled))

    def mlp(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.excite(torch.relu(self.squeeze(pooled)))


class Head(nn.Module):
    """Features (B, 32, H, W) to boxes (B, 4, H, W) and scores (B, 10, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            layer for width in (32, 64) for layer in (nn.Conv2d(width, 64, 3, padding=1), nn.BatchNorm2d(64), nn.SiLU())
        ]
        self.trunk = nn.Sequential(*layers, Attention(64))
        self.boxes, self.scores = nn.Conv2d(64, 4, 1), nn.Conv2d(64, 10, 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.trunk(features)
        return self.boxes(x), self.scores(x)


def head() -> nn.Module:
    """What edgeattn calls; the weights come with --weights, or load them here."""
    torch.manual_seed(0)
    return Head()


def train(steps: int = 700, batch: int = 16) -> nn.Module:
    """Fit the training pages: a class loss over every cell, and a box loss where the digits are."""
    import your_task

    module = head().train()
    nn.init.constant_(module.scores.bias, -4.0)  # most cells hold nothing
    optimiser = torch.optim.Adam(module.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for part in your_task.batches("train", steps * batch, batch):
        boxes, scores = module(torch.from_numpy(part.feeds["features"]))
        classes, offsets, rows = labels(part.targets)
        hit = rows, slice(None), *torch.from_numpy(your_task.centres(part.targets)).flatten(0, 1).T
        wrong = nn.functional.binary_cross_entropy_with_logits(scores, classes, reduction="sum") / len(rows)
        loss = wrong + nn.functional.l1_loss(boxes[hit], offsets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return module.eval()


def labels(targets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Objects (B, N, 5) to class maps (B, 10, H, W), what the boxes should say (B·N, 4), and each object's page."""
    from your_task import CELL, CELLS, CLASSES, centres

    cells = centres(targets)
    pages = np.repeat(np.arange(len(targets)), targets.shape[1])
    classes = np.zeros((len(targets), CLASSES, CELLS, CELLS), np.float32)
    flat, objects = cells.reshape(-1, 2), targets.reshape(-1, 5)
    classes[pages, objects[:, 0].astype(int), flat[:, 0], flat[:, 1]] = 1
    middle = (objects[:, 1:3] + objects[:, 3:] / 2) / CELL - flat[:, ::-1] - 0.5
    offsets = np.concatenate((middle, np.log(objects[:, 3:] / CELL)), 1).astype(np.float32)
    return torch.from_numpy(classes), torch.from_numpy(offsets), torch.from_numpy(pages)


def main() -> None:
    from your_task import TASK

    module = train()
    with torch.inference_mode():
        found = []
        for part in TASK.test(None, 50):
            boxes, scores = module(torch.from_numpy(part.feeds["features"]))
            found.append(TASK.score({"output_0": boxes.numpy(), "output_1": scores.numpy()}, part.targets))
    torch.save(module.state_dict(), WEIGHTS)
    print(f"{WEIGHTS}: F1 {np.concatenate(found).mean():.3f} on held-out pages")


if __name__ == "__main__":
    main()
