"""How long work tells what it is doing: it calls a listener, and whoever shows progress is one."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, "int | None"], None]
"""Hears ``(what is going on, done, total)``; total is None while it is unknown."""


def silent(_what: str, _done: int, _total: int | None) -> None:
    """A listener that ignores everything."""
