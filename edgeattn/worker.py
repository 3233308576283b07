"""The command line works in a child process, so that a native library which dies takes only its own process along.

ONNX, ONNX Runtime and OpenVINO are native code that reads files other people made. ``supervise`` forks once, before
anything heavy is imported; the child becomes the worker and runs the whole command, the parent does nothing but wait.
What the child prints, its exit code and its bar on the terminal are therefore its own, and nothing is loaded or sent
twice. All of it adds 13 to 20 ms to the 0.24 s of ``edgeattn inspect``; a second interpreter would take 30 ms before
it had loaded anything. The fork is safe because the parent has one thread and no native library yet.

What the parent adds:

- A worker killed by a signal is told as one line that names the library and what it was doing (:mod:`edgeattn.phase`).
- Memory (``EDGEATTN_MEMORY``, else what is free) and time (``--timeout``) are limited.
- Ctrl-C, SIGTERM and SIGHUP reach the worker; one that is stuck in native code is killed a moment later.
- The worker dies with its parent, however that ends, and what it left in temporary directories is removed.
- What native code prints to stderr is held back until it is known whether it explains an error or spoils a line.

The functions of the Python API run in the caller's process: who embeds them decides about processes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edgeattn import memory, phase
from edgeattn.errors import EdgeattnError, EngineFailed, OutOfResources, printable

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_S = 3.0  # from a signal, or from the end of its work, until a worker that does not leave is killed
_TICK_S = 0.25
_HELD_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT = "EDGEATTN_PARENT"
"""Set by an edgeattn that starts another: the number of its process, which the other one is not to outlive."""


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        code: its exit code; None when a signal killed it before it had one.
        signal: that signal. stopped: the signal that asked this process to stop, 0 for none.
        late: whether it ran out of time.
        page: what it was doing. said: the last of what native code printed.
    """

    code: int | None
    signal: int
    stopped: int
    late: bool
    page: phase.Page
    said: str


def supervise() -> Ended | None:
    """Fork; the child returns None at once and carries on, the parent returns when the child has ended.

    Raises:
        UsageError: ``EDGEATTN_MEMORY`` is no size.
        OutOfResources: no process or descriptor is left for the child.
    """
    starter = os.environ.pop(PARENT, "")
    if starter.isdigit():
        die_with(int(starter))
    asked = memory.asked_for()
    limit = memory.free() if asked is None else asked
    page = phase.Page()
    parent = os.getpid()
    try:
        held, chatter = os.pipe()
        with _blocked(*STOPS):
            child = os.fork()
            if child:
                os.close(chatter)
                watch = _Watch(child, page, held)
            else:
                os.close(held)
                _become_worker(parent, chatter, limit)
    except OSError as error:
        what = f"cannot start a process: {error.strerror}"
        raise OutOfResources(what, hint="close other programs, or raise ulimit -u and -n") from error
    if child:
        return watch.until_it_ends()
    phase.watched_on(page)
    return None


def account(ended: Ended) -> EdgeattnError | None:
    """What to tell about a worker that was killed; None when it ended by itself or was asked to."""
    if ended.code is not None or (ended.stopped and not ended.late):
        return None
    page = ended.page
    who = page.engine or "the worker process"
    during = f" while {printable(page.doing, 120)}" if page.doing else ""
    if ended.late:
        what = f"{who} took longer than {page.seconds:g} s{during}"
        return OutOfResources(what, where=page.file, hint=f"{page.written}; allow more with --timeout")
    if ended.signal == signal.SIGKILL:
        what = f"{who} was killed (SIGKILL){during}, as the kernel does when memory runs out"
        return OutOfResources(what, where=page.file, hint=f"{page.written}; use a smaller model or more memory")
    name = _name(ended.signal)
    if re.search(r"bad_alloc|[Oo]ut of memory|[Cc]annot allocate memory|std::length_error", ended.said):
        what = f"{who} ran out of memory{during} ({name})"
        return OutOfResources(what, where=page.file, hint=f"{page.written}; EDGEATTN_MEMORY sets the limit")
    what = f"{who} died by {name}{during}"
    hint = f"{page.written}; the file may be damaged, --debug shows where it happened"
    return EngineFailed(what, where=page.file, hint=hint)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Watch:
    """The parent's side: passes signals on, keeps the time, and cleans up after a killed child."""

    def __init__(self, child: int, page: phase.Page, held: int) -> None:
        self._child, self._page, self._held = child, page, held
        self._said = b""
        self._stopped = 0
        self._late, self._gone = False, False
        self._overdue_s = 0.0  # since it should have left
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._pass_on)

    def until_it_ends(self) -> Ended:
        """Wait; the time in which this process itself is stopped, by Ctrl-Z say, does not count."""
        spent, last = 0.0, time.monotonic()
        while not (status := self._status()):
            now = time.monotonic()
            step, last = min(now - last, 2 * _TICK_S), now
            spent += step
            self._enforce(spent, step)
            self._listen(_TICK_S)
        self._gone = True
        self._listen(0)
        os.close(self._held)
        code = os.waitstatus_to_exitcode(status[1])
        if code < 0:
            self._clear_up()
        finished = self._page.code if code < 0 else code  # a library that dies after the work, at exit, changes nothing
        return Ended(
            finished, max(0, -code), self._stopped, self._late, self._page, self._said.decode(errors="replace")
        )

    def _status(self) -> tuple[int, int] | None:
        pid, status = os.waitpid(self._child, os.WNOHANG)
        return (pid, status) if pid else None

    def _enforce(self, spent: float, step: float) -> None:
        if self._page.seconds and spent > self._page.seconds and self._page.code is None:
            self._late = True
            self._kill(signal.SIGKILL)
        if self._stopped or self._page.code is not None:
            self._overdue_s += step
            if self._overdue_s > _GRACE_S:
                self._kill(signal.SIGKILL)

    def _listen(self, seconds: float) -> None:
        """Take what native code printed, for at most ``seconds``; the end of the child ends the wait."""
        ready, _, _ = select.select([self._held], [], [], seconds)
        while ready:
            new = os.read(self._held, _HELD_BYTES)
            self._said = (self._said + new)[-_HELD_BYTES:]
            if not new:
                time.sleep(0.001)  # closed its end: it is about to be gone
                return
            ready, _, _ = select.select([self._held], [], [], 0)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._stopped = self._stopped or number
        self._kill(number)

    def _kill(self, number: int) -> None:
        if not self._gone:  # until waitpid its number cannot be another process
            os.kill(self._child, number)

    def _clear_up(self) -> None:
        """What the child would have removed itself."""
        from edgeattn import publish

        if self._page.folder:
            publish.sweep(Path(self._page.folder))
        publish.sweep_scratch(self._child)


def _become_worker(parent: int, chatter: int, limit: int) -> None:
    """The child's side: die with the parent, stay within the limits, and keep native chatter off stderr."""
    die_with(parent)
    _limit(limit)
    real = os.dup(2)
    os.dup2(chatter, 2)
    os.close(chatter)
    stderr = sys.stderr
    if stderr is not None:
        sys.stderr = open(  # noqa: SIM115 - it stays open as long as the process
            real, "w", buffering=1, encoding=stderr.encoding, errors=stderr.errors
        )
    faulthandler.enable(2)  # where in Python a native crash happened: shown with --debug


def die_with(parent: int) -> None:
    """This process is killed when its parent, whose number is given, ends in whatever way; Linux only."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)


def _limit(size: int) -> None:
    """Bound what the process can allocate, 0 for no bound; files that are only mapped do not count. No core dumps."""
    import resource

    with contextlib.suppress(ValueError, OSError):  # a system without such limits
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if size and (soft == resource.RLIM_INFINITY or size < soft):
            resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


@contextlib.contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Signals wait until the block ends: until both processes are ready for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
