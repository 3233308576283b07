"""Train the shipped checkpoints again: ``python -m edgeattn.weights.train [NAME …] [--out DIR]``.

Each run is seeded and uses one thread, so the same machine gives the same bytes. Nothing is chosen by looking at the
test split: the recipe is fixed, the last weights are kept, and the test score is measured once, at the end, and
written into the file's metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn import models, registry, weights
from edgeattn.errors import EdgeattnError, UnknownName
from edgeattn.tasks import Task, dates, digits

log = logging.getLogger(__name__)

SEED = 0
Loss = torch.Tensor


def train(name: str) -> tuple[nn.Module, dict[str, str]]:
    """Train a configuration that ships with weights.

    Returns:
        The module in eval mode, and the metadata to store beside its weights.

    Raises:
        UnknownName: no configuration of that name is trained.
    """
    trained = {n: found for n, found in models.configurations().items() if found[1].weights}
    if name not in trained:
        raise UnknownName("trained configuration", name, trained)
    family, config = trained[name]
    assert config.task is not None
    torch.set_num_threads(1)
    started = time.perf_counter()
    module = family.build(**config.options, seed=SEED)
    _TRAINERS[config.task](module)
    module.eval()
    task = registry.get("tasks", config.task)
    score = evaluate(module, task)
    log.info("%s: %s %.4f on the test split, %.0f s", name, task.metric, score, time.perf_counter() - started)
    return module, {
        "task": task.name,
        "metric": task.metric,
        "score": f"{score:.4f}",
        "seed": str(SEED),
        "torch": torch.__version__,
        "source_sha256": source_digest(module, task.name),
    }


def train_digits(net: nn.Module, epochs: int = 40, batch: int = 64, peak_rate: float = 3e-3) -> None:
    """AdamW on randomly shifted, turned, sheared and scaled digits with smoothed labels."""
    images, labels = map(torch.from_numpy, digits.load("train"))
    random = torch.Generator().manual_seed(SEED)

    def losses() -> Iterator[Loss]:
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=random)
            for start in range(0, len(images) - batch + 1, batch):
                rows = order[start : start + batch]
                logits = net(distort(images[rows], random))
                yield functional.cross_entropy(logits, labels[rows], label_smoothing=0.1)

    _optimise(net, losses(), epochs * (len(images) // batch), peak_rate, weight_decay=0.02)


def distort(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A random affine view of each image ``(B, 1, H, W)``: ±0.22 rad, ±12 % size, ±0.15 shear, ±2.5 pixels."""
    turn, size, shear, right, down = (2 * torch.rand(5, len(images), generator=random) - 1).unbind(0)
    turn, size, shear, right, down = 0.22 * turn, 1 + 0.12 * size, 0.15 * shear, 0.16 * right, 0.16 * down
    rows = (
        torch.stack((size * turn.cos(), shear - turn.sin(), right), 1),
        torch.stack((turn.sin(), size * turn.cos(), down), 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    paper = -digits.MEAN / digits.STD  # grid_sample fills with 0, so the empty paper is moved there
    return functional.grid_sample(images - paper, grid, align_corners=False) + paper


def train_dates(net: nn.Module, steps: int = 1500, batch: int = 128, peak_rate: float = 4e-3) -> None:
    """Teacher forcing on random training dates in random forms."""
    known, _ = dates.split()
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[Loss]:
        for _ in range(steps):
            drawn = [known[index] for index in random.randint(len(known), size=batch)]
            forms = random.randint(len(dates.FORMS), size=batch)
            feeds = dates.encode([dates.FORMS[form](date) for form, date in zip(forms, drawn, strict=True)])
            targets = torch.from_numpy(dates.encode_targets([date.isoformat() for date in drawn]))
            yield functional.cross_entropy(_forced_logits(net, feeds, targets).flatten(0, 1), targets.flatten())

    _optimise(net, losses(), steps, peak_rate)


def evaluate(net: nn.Module, task: Task, samples: int | None = None, batch: int = 250) -> float:
    """Mean test score of a module in eval mode."""
    scores = []
    with torch.no_grad():
        for part in task.test(samples, batch):
            if task.name == "dates":
                # Greedy decoding gives the target exactly when teacher forcing does: both see the same prefixes.
                logits = _forced_logits(net, part.feeds, torch.from_numpy(part.targets))
                outputs = {"tokens": logits.argmax(-1).numpy()}
            else:
                outputs = {"logits": net(torch.from_numpy(part.feeds["image"])).numpy()}
            scores.append(task.score(outputs, part.targets))
    return float(np.concatenate(scores).mean())


def _forced_logits(net: nn.Module, feeds: Any, targets: torch.Tensor) -> torch.Tensor:
    start = torch.full_like(targets[:, :1], dates.START)
    tokens = torch.cat((start, targets[:, :-1]), 1)
    logits: torch.Tensor = net(torch.from_numpy(feeds["src"]), torch.from_numpy(feeds["src_mask"]), tokens)
    return logits


def _optimise(net: nn.Module, losses: Iterator[Loss], steps: int, peak_rate: float, weight_decay: float = 0.0) -> None:
    """One-cycle AdamW with clipped gradients, one update for each loss that comes."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, steps, pct_start=0.2)
    for step, loss in enumerate(losses):
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d of %d, loss %.4f", step, steps, loss.item())


def source_digest(net: nn.Module, task: str) -> str:
    """sha256 of the sources that decide the weights: those of the net's classes, the task, and this file."""
    package = Path(__file__).parent.parent
    classes = {Path(inspect.getfile(type(module))) for module in net.modules()}
    ours = {file for file in classes if file.is_relative_to(package)}
    sha = hashlib.sha256()
    for file in (*sorted(ours), package / "tasks" / f"{task}.py", Path(__file__)):
        sha.update(file.read_bytes())
    return sha.hexdigest()


_TRAINERS: dict[str, Callable[[Any], None]] = {"digits": train_digits, "dates": train_dates}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is named, or every shipped checkpoint, and write the files."""
    shipped = sorted(name for name, (_, config) in models.configurations().items() if config.weights)
    parser = argparse.ArgumentParser(prog="python -m edgeattn.weights.train", description=__doc__)
    parser.add_argument("names", nargs="*", default=shipped, metavar="NAME", help=f"of: {', '.join(shipped)}")
    parser.add_argument("--out", type=Path, default=weights.FOLDER, help="directory for the .safetensors files")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.names:
            module, metadata = train(name)
            weights.write(options.out / f"{name}.safetensors", module.state_dict(), metadata)
    except EdgeattnError as error:
        log.error("edgeattn: error: %s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
