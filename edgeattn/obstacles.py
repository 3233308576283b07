"""What keeps a module from being exported or judged, found at the line of the user's file that causes it.

PyTorch's exporter runs forward() with symbolic values. It stops where Python must know a value (``if x.sum() > 0``),
and freezes a dimension where Python must know a size (``for i in range(x.shape[1])``); both are answered here with
the line. A model that draws random numbers is caught by what its operators declare about themselves.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgeattn import theirs
from edgeattn.errors import Unsupported

_FROZEN = re.compile(r"static shape of (\d+) for dimension inputs\['(\w+)'\]\.shape\[(\d+)\]")
_GUARD = re.compile(r"eval Eq\(\w+, (\d+)\) \[guard added\]")


class Guards(logging.Handler):
    """Hears which sizes the exporter fixes, and at which line of the user's code it had to.

    Attributes:
        fixed: ``(size, line)`` in the order they were fixed; the line is empty where it is not the user's.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.fixed: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by PyTorch's tracer in the middle of their code, whose frames are therefore on the stack."""
        match = _GUARD.search(record.getMessage())
        if match:
            self.fixed.append((match[1], theirs.innermost(traceback.extract_stack())))

    @contextmanager
    def listening(self) -> Iterator[Guards]:
        """Hear, and keep what the exporter says about its own internals out of the user's terminal."""
        tracer = logging.getLogger("torch.fx.experimental.symbolic_shapes")
        loggers = [tracer, *map(logging.getLogger, ("torch.onnx", "onnxscript"))]
        handlers, propagate, levels = tracer.handlers, tracer.propagate, [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        tracer.handlers, tracer.propagate = [self], False
        tracer.setLevel(logging.INFO)
        try:
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # half-traced graphs are printed there
                warnings.simplefilter("ignore")
                yield self
        finally:
            tracer.handlers, tracer.propagate = handlers, propagate
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def explained(error: BaseException, graph: str, guards: Guards) -> Unsupported:
    """Why PyTorch could not export a graph, with the user's line where one is to blame."""
    frozen = _FROZEN.search(str(_root(error)))
    if frozen:
        size, name, axis = frozen.groups()
        lines = [place for fixed, place in guards.fixed if fixed == size and place]
        return Unsupported(
            f"axis {axis} of input '{name}' is declared dynamic, but forward() fixes it at {size}",
            where=lines[0] if lines else f"graph '{graph}'",
            hint="a Python loop over a length is the usual cause: use tensor operations, split the graph there, "
            f"or leave '{name}:{axis}' out of --dynamic",
        )
    causes = list(_chain(error))
    guarded = next((c for c in causes if type(c).__name__.startswith("GuardOnDataDependent")), None)
    if guarded is not None:
        return Unsupported(
            "Python control flow depends on a tensor's value (data-dependent), which no ONNX graph can follow",
            where=theirs.line(guarded) or f"graph '{graph}'",
            hint="use torch.where for `if`, a fixed number of steps for `while`, or split the graph there",
        )
    root = _root(error)
    text = next((line.strip() for line in str(root).splitlines() if line.strip()), type(root).__name__)
    return Unsupported(
        f"PyTorch cannot export graph '{graph}': {text}",
        where=next(filter(None, map(theirs.line, reversed(causes))), ""),
        hint="an operation outside PyTorch (numpy, Python numbers) in forward() is a usual cause: use torch's own",
    )


def interrupted(error: BaseException) -> bool:
    """Whether a Ctrl-C lies behind an exception: one that hits the exporter's imports surfaces as another error."""
    return any(isinstance(cause, KeyboardInterrupt) for cause in _chain(error, contexts=True))


def random_operator(run: Callable[[], Any]) -> tuple[str, str]:
    """Which operator draws random numbers while ``run()`` goes: the user's line and its name; empty if none does."""
    with _Random() as seen:
        run()
    return seen.place, seen.operator


class _Random(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first operator that declares its result to depend on a random seed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place, self.operator = "", ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.operator and torch.Tag.nondeterministic_seeded in func.tags:
            self.place, self.operator = theirs.innermost(traceback.extract_stack()), func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


def _root(error: BaseException) -> BaseException:
    """The innermost cause; the exporter wraps the real exception in pages of advice."""
    return list(_chain(error))[-1]


def _chain(error: BaseException, contexts: bool = False) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        found = found.__cause__ or (found.__context__ if contexts else None)
