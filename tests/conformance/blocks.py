"""The blocks by kind, built with seeded weights, attending with seeded inputs, and opened in the engines."""

import pytest
import torch

from edgeattn import registry
from edgeattn.backends import Options

BLOCKS = registry.names("blocks")
ENGINES = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("onnxruntime", "openvino")]


def of_kind(*kinds):
    return [name for name in BLOCKS if registry.get("blocks", name).kind in kinds]


GATES = [name for name in BLOCKS if registry.get("blocks", name).gates]
DISTRIBUTIONS = of_kind("alignment")
LOCALS = of_kind("local alignment")
ALIGNMENTS = [*DISTRIBUTIONS, *LOCALS]
MULTI_HEADS = of_kind("multi-head")
LATENTS = of_kind("latent")


def built(name, *sizes, **options):
    torch.manual_seed(0)
    return registry.get("blocks", name).build(*sizes, **options).eval()


def attending(name, **options):
    """An attention over a memory of width 8, with queries as wide unless it has its own."""
    return built(name, *([8] if name in LATENTS else [8, 8]), **options)


def drawn(name, batch, steps, length):
    """Inputs of an attention over a memory, ragged; of several rows, the last is fully masked."""
    torch.manual_seed(1)
    lengths = torch.arange(batch - 1, -1, -1) * length // (batch - 1) if batch > 1 else torch.tensor([length])
    mask = torch.arange(length) < lengths.unsqueeze(1)
    query = torch.randn(batch, steps, 8) if name in MULTI_HEADS else torch.randn(batch, 8)
    own = {} if name in LATENTS else {"query": query}
    return {**own, "memory": torch.randn(batch, length, 8), "mask": mask}


def opened(program, engine):
    """The sessions of a program in an engine, with its own optimisations on."""
    backend = registry.get("backends", engine)
    return {name: backend.load(model, Options("cpu", threads=1)) for name, model in program.graphs.items()}
