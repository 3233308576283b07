"""edgeattn: PyTorch attention models to verified, custom-op-free engines for small machines.

The names below are the public API; each is loaded when it is first used, so ``import edgeattn`` stays light.
On an edge box only ``edgeattn.load`` is needed: numpy and one engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Case": "edgeattn.program",
    "EdgeattnError": "edgeattn.errors",
    "GraphSource": "edgeattn.models",
    "Program": "edgeattn.program",
    "Recipe": "edgeattn.recipe",
    "Report": "edgeattn.report",
    "Session": "edgeattn.program",
    "Source": "edgeattn.models",
    "TensorSpec": "edgeattn.program",
    "Wiring": "edgeattn.program",
    "attention_policy": "edgeattn.quantize",
    "load": "edgeattn.runtime",
    "run": "edgeattn.pipeline",
}
__all__ = [
    "Case",
    "EdgeattnError",
    "GraphSource",
    "Program",
    "Recipe",
    "Report",
    "Session",
    "Source",
    "TensorSpec",
    "Wiring",
    "attention_policy",
    "load",
    "run",
]

if TYPE_CHECKING:
    from edgeattn.errors import EdgeattnError
    from edgeattn.models import GraphSource, Source
    from edgeattn.pipeline import run
    from edgeattn.program import Case, Program, Session, TensorSpec, Wiring
    from edgeattn.quantize import attention_policy
    from edgeattn.recipe import Recipe
    from edgeattn.report import Report
    from edgeattn.runtime import load


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgeattn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
