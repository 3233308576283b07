"""How the kit says no: one line on stderr and edgeattn's exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import unicodedata
from types import FrameType
from typing import Callable, Sequence

OK, GATE_FAILED, USAGE, BAD_INPUT, UNSUPPORTED, RESOURCES, INTEGRITY = range(7)
BUG, INCONCLUSIVE, INTERRUPTED = 70, 75, 130
DEBUG = "EDGEATTN_DEBUG"


class Refused(Exception):
    """The kit cannot go on.

    Args:
        code: exit code. what: what is wrong, in one clause. where: the file or graph it is about. hint: what mends it.
    """

    def __init__(self, code: int, what: str, where: str = "", hint: str = "") -> None:
        self.code = code
        line = f"{where}: {what}" if where else what
        super().__init__(printable(f"{line}; {hint}" if hint else line))


def printable(text: str) -> str:
    """Text from elsewhere on one line that cannot drive the terminal."""
    flat = " ".join(text.split())
    return "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in flat)[:1000]


def run(name: str, job: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a script's job; whatever keeps it from finishing becomes one line and an exit code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return job(arguments)
    except Refused as refused:
        return _told(name, str(refused), refused.code)
    except KeyboardInterrupt:
        return _told(name, "interrupted; nothing was half-written", INTERRUPTED)
    except MemoryError:
        return _told(name, "ran out of memory; close other programs, or build on a board with more", RESOURCES)
    except OSError as error:
        what = "{}: {}".format(error.filename or "this directory", error.strerror or error)
        return _told(name, what + "; check the disk and its permissions", RESOURCES)
    except Exception as error:
        return _told(name, f"{type(error).__name__}: {error}; this is a fault of the kit", BUG)


def _told(name: str, line: str, code: int) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    sys.stderr.write(f"{name}: error: {printable(line)}\n")
    return code


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # so that what tidies up is run


def say(line: str) -> None:
    """A line of progress."""
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
