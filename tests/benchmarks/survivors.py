"""Work in child processes that may die: native code sometimes takes its process along.

The children are forked after everything is loaded and before any engine is opened, so a new one costs nothing. A step
during which its child dies, or that hangs, is an answer like any other, and the rest of the job goes on without it.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

HANG_SECONDS = 120.0
Steps = dict[str, Any]
Report = Callable[[str, Any], None]
"""A job says ``report(step, None)`` before a step and ``report(step, result)`` after it."""
Job = Callable[[int, Steps, Report], None]
"""Does job number n; the steps that are known already are not done again."""


@dataclass
class _Child:
    process: Any
    pipe: Connection
    job: int
    doing: str = ""
    since: float = field(default_factory=time.monotonic)


def each(job: Job, known: list[Steps], children: int, crashed: Callable[[str], Any]) -> Iterator[tuple[int, Steps]]:
    """The steps of every job in the order in which they end.

    Args:
        job: runs in a child. known: job -> the steps that need not be done; it is filled in.
        children: processes at a time.
        crashed: makes the result of a step from how it ended.
    """
    context = mp.get_context("fork")
    waiting = list(range(len(known)))[::-1]
    running: list[_Child] = []

    def start() -> None:
        while waiting and len(running) < children:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            running.append(_give(_Child(process, ours, -1), waiting.pop(), known))

    start()
    while running:
        ready: Sequence[Any] = wait([c.pipe for c in running], timeout=1.0)
        for child in list(running):
            ended = ""
            if child.pipe in ready:
                try:
                    step, result = child.pipe.recv()
                except (EOFError, ConnectionResetError):
                    child.process.join()
                    ended = f"crashed ({_how(child.process.exitcode)})"
                else:
                    child.since = time.monotonic()
                    child.doing = step
                    if result is not None and step:
                        known[child.job][step] = result
                    if not step:  # the job is done
                        yield child.job, known[child.job]
                        if waiting:
                            _give(child, waiting.pop(), known)
                        else:
                            child.pipe.send(None)
                            child.process.join()
                            running.remove(child)
            elif time.monotonic() - child.since > HANG_SECONDS:
                child.process.kill()
                child.process.join()
                ended = f"hung for {HANG_SECONDS:.0f} s"
            if ended:
                running.remove(child)
                known[child.job][child.doing] = crashed(ended)
                waiting.append(child.job)
                start()


def _give(child: _Child, job: int, known: list[Steps]) -> _Child:
    child.job, child.doing, child.since = job, "start", time.monotonic()
    child.pipe.send((job, known[job]))
    return child


def _serve(job: Job, pipe: Connection) -> None:
    """The child: jobs until there are no more. What native code prints goes nowhere."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    while (given := pipe.recv()) is not None:
        number, known = given
        job(number, known, lambda step, result: pipe.send((step, result)))
        pipe.send(("", None))
    os._exit(0)  # without the clean-up of what the parent had open


def _how(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit {code}"
