"""The folder is the registry: a block, model, task, rule, scheme or backend is the file that defines it.

``edgeattn/blocks/cbam.py`` holds ``BLOCK``; dropping a file into the folder registers it, deleting it unregisters it.
File stem, registry name and report key are the same word. Files that start with ``_`` are shared frame code.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from edgeattn.errors import UnknownName

KINDS = {
    "blocks": "BLOCK",
    "models": "MODEL",
    "tasks": "TASK",
    "rewrite": "RULE",
    "quantize": "SCHEME",
    "backends": "BACKEND",
    "capabilities": "CHECK",
}


def names(kind: str) -> list[str]:
    """Registered names of a kind, sorted; imports nothing."""
    folder = Path(__file__).parent / kind
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def get(kind: str, name: str) -> Any:
    """The registered object, e.g. ``get("blocks", "cbam")``.

    Raises:
        UnknownName: with the nearest names.
    """
    if name not in names(kind):
        raise UnknownName(kind.rstrip("s"), name, names(kind))
    return getattr(importlib.import_module(f"edgeattn.{kind}.{name}"), KINDS[kind])


def card(kind: str, name: str) -> str:
    """What ``edgeattn explain`` prints: the docstring of the file."""
    get(kind, name)
    return (importlib.import_module(f"edgeattn.{kind}.{name}").__doc__ or "").strip()
