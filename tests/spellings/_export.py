"""PyTorch's two exporters over the table, with eager outputs beside each graph; kept on disk, since they are slow."""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxscript
import torch
from torch import nn

from edgeattn.program import Case, Program, Reference, TensorSpec
from tests.spellings._spelling import Spelling

FOLDER = Path(__file__).parent
CACHE = FOLDER.parent.parent / ".cache" / "spellings"
# Two sizes for every dynamic dimension; none is 0 or 1, which the exporters take for constants.
SIZES = {
    "batch": (2, 3),
    "source": (5, 7),
    "target": (4, 6),
    "past": (3, 5),
    "height": (8, 10),
    "width": (6, 12),
}


class Unexportable(Exception):
    """PyTorch's exporter has no form of a module in that opset."""


@functools.cache
def exported(spelling: Spelling, exporter: str, opset: int) -> Program:
    """The spelling as ``exporter`` writes it, from disk where it has been written before."""
    path = CACHE / f"{spelling.name}.{exporter}.{opset}.{_sources()[:16]}"
    if path.exists():
        kept = pickle.loads(path.read_bytes())
    else:
        kept = _fresh(spelling, exporter, opset)
        _keep(path, kept)
    if isinstance(kept, str):
        raise Unexportable(kept)
    data, cases = kept
    graph = onnx.load_from_string(data)
    return Program({"main": graph}, reference=Reference("pytorch eager", cases))


def _fresh(spelling: Spelling, exporter: str, opset: int) -> tuple[bytes, tuple[Case, ...]] | str:
    """The graph's bytes and its cases, or why there are none."""
    module = seeded(spelling)
    cases = tuple(_case(spelling, module, i) for i in (range(1) if spelling.static else range(2)))
    arguments = tuple(torch.from_numpy(cases[0].feeds[s.name]) for s in spelling.inputs)
    write = {"dynamo": _dynamo, "torchscript": _torchscript}[exporter]
    with _quiet():
        try:
            graph = write(spelling, module, arguments, opset)
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
    written = next(o.version for o in graph.opset_import if o.domain == "")
    return f"written in opset {written}" if written != opset else (graph.SerializeToString(), cases)


def seeded(spelling: Spelling) -> nn.Module:
    """The module with seeded weights, and statistics away from their neutral start."""
    torch.manual_seed(0)
    module = spelling.build()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def _case(spelling: Spelling, module: nn.Module, number: int) -> Case:
    rng = np.random.default_rng(number)
    feeds = {s.name: _drawn(s, number, rng) for s in spelling.inputs}
    with torch.no_grad():
        made = module(*(torch.from_numpy(a) for a in feeds.values()))
    outputs = made if isinstance(made, tuple) else (made,)
    named = {n: o.numpy() for n, o in zip(spelling.outputs, outputs, strict=True)}
    return Case(f"sizes-{number}", feeds, None, named)


def _drawn(spec: TensorSpec, number: int, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers; masks that hide the end of every row but its first position; small whole numbers."""
    shape = tuple(SIZES[d][number] if isinstance(d, str) else d for d in spec.shape)
    if spec.name.startswith("mask"):
        lengths = rng.integers(1, shape[-1] + 1, shape[:-1])[..., None]
        return (np.arange(shape[-1]) < lengths).astype(spec.dtype)
    if spec.dtype == "float32":
        return rng.standard_normal(shape, np.float32)
    return rng.integers(0, 4, shape).astype(spec.dtype)


def _dynamo(spelling: Spelling, module: nn.Module, arguments: tuple[torch.Tensor, ...], opset: int) -> onnx.ModelProto:
    dynamic: tuple[object, ...] = tuple(
        {i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in spelling.inputs
    )
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values()):
        dynamic = (dynamic,)  # the exporter wants those of ``forward(*inputs)`` in one tuple
    graph = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=None if spelling.static else dynamic,
        input_names=[s.name for s in spelling.inputs],
        output_names=list(spelling.outputs),
        verbose=False,
    ).model_proto
    del graph.graph.value_info[:]  # repeats the traced sizes
    return graph


def _torchscript(
    spelling: Spelling, module: nn.Module, arguments: tuple[torch.Tensor, ...], opset: int
) -> onnx.ModelProto:
    dynamic = {s.name: {i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in spelling.inputs}
    file = io.BytesIO()
    torch.onnx.export(
        module,
        arguments,
        file,
        dynamo=False,
        opset_version=opset,
        dynamic_axes=None if spelling.static else dynamic,
        input_names=[s.name for s in spelling.inputs],
        output_names=list(spelling.outputs),
    )
    return onnx.load_from_string(file.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' own deprecations and notes, and PyTorch's fast path for attention, off."""
    logger = logging.getLogger("torch.onnx")
    level, fast = logger.level, torch.backends.mha.get_fastpath_enabled()
    logger.setLevel(logging.ERROR)
    sys.stdout.flush()
    stdout = os.dup(1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)  # TorchScript's C++ prints what it cannot export
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)


@functools.cache
def _sources() -> str:
    """A digest of the table, of this file and of what writes the graphs."""
    sha = hashlib.sha256(f"{torch.__version__} {onnx.__version__} {onnxscript.__version__}".encode())
    for path in sorted(FOLDER.glob("*.py")):
        if path.name not in ("__init__.py", "__main__.py", "_match.py", "_variants.py"):
            sha.update(path.read_bytes())
    return sha.hexdigest()


def _keep(path: Path, kept: object) -> None:
    """Written beside and moved into place: two test workers may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_bytes(pickle.dumps(kept))
    beside.replace(path)
