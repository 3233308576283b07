"""How long work tells what it is doing: it calls a listener, and whoever shows progress is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, "int | None"], None]
"""Hears ``(what is going on, done, total)``; total is None while it is unknown."""


def silent(_what: str, _done: int, _total: int | None) -> None:
    """A listener that ignores everything."""


_listening: ContextVar[Listener] = ContextVar("listening", default=silent)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """What runs inside tells its progress to ``listener``, wherever it is written."""
    token = _listening.set(listener)
    try:
        yield
    finally:
        _listening.reset(token)


def listener() -> Listener:
    """Who listens now; :func:`silent` where nobody does."""
    return _listening.get()
