"""Parameters and multiply-accumulates of every configuration: measured from the modules, kept in ``facts.json``.

Listing models must not build them, so the figures are stored; a test measures them again. ``make facts`` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.files import read_regular

if TYPE_CHECKING:
    import torch

    from edgeattn.program import TensorSpec

FILE = Path(__file__).with_name("facts.json")
IMAGE, LENGTH = 224, 32
SETTING = f"batch 1, {IMAGE} x {IMAGE} where the size is free, {LENGTH} positions of every sequence"


@dataclass(frozen=True)
class Facts:
    """What a configuration weighs.

    Attributes:
        parameters: of the whole program; a tensor that two graphs share counts once.
        macs: graph -> multiply-accumulates of one run of it at ``SETTING``.
    """

    parameters: int
    macs: Mapping[str, int]


def known() -> dict[str, Facts]:
    """The stored facts by configuration name; imports no torch."""
    stored = json.loads(read_regular(FILE, 1 << 20)) if FILE.exists() else {}
    return {name: Facts(**values) for name, values in stored.items()}


def measure(name: str) -> Facts:
    """Build a configuration on the meta device, where nothing has values, and count."""
    import torch

    from edgeattn import models
    from edgeattn.models._macs import count_macs

    family, config = models.find(name)
    with torch.device("meta"):
        source = family.source(family.build(**config.options))
        tensors = {p for graph in source.graphs.values() for p in graph.module.parameters()}
        macs = {
            graph: count_macs(part.module, *(_example(spec) for spec in part.inputs))
            for graph, part in source.graphs.items()
        }
    return Facts(sum(p.numel() for p in tensors), macs)


def _example(spec: TensorSpec) -> torch.Tensor:
    import torch

    sizes = {"batch": 1, "height": IMAGE, "width": IMAGE}
    shape = [d if isinstance(d, int) else sizes.get(d, LENGTH) for d in spec.shape]
    return torch.zeros(shape, dtype=getattr(torch, spec.dtype), device="meta")


def main() -> None:
    """Measure every configuration and write the file."""
    from edgeattn import models

    found = {name: asdict(measure(name)) for name in sorted(models.configurations())}
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
