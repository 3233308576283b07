"""The command line: ``edgeattn COMMAND``. The only code that prints or exits; each command is a thin call."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from edgeattn.errors import EXIT_SIGINT, EdgeattnError, missing_package, printable


def main() -> NoReturn:
    """Run the command line and exit with the contract's code."""
    interrupts = _noted_interrupts()
    from edgeattn.cli.app import app

    try:
        code = app(standalone_mode=False)
    except Exception as error:
        code = EXIT_SIGINT if interrupts else _told(error)
    except KeyboardInterrupt:
        code = EXIT_SIGINT
    except SystemExit as error:
        code = error.code
    if code in _SIGNALS:  # the argument parser turns Ctrl-C into a code, publish.py SIGTERM into a SystemExit
        code = _stopped(code)
    _leave(code if isinstance(code, int) else 0)


def _noted_interrupts() -> list[int]:
    """Every Ctrl-C from now on: one that hits a native import surfaces as another error, such as a missing package."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, note)
    return noted


_SIGNALS = {EXIT_SIGINT: "interrupted", 128 + signal.SIGTERM: "terminated"}


def _stopped(code: int) -> int:
    return _say(f"{_SIGNALS[code]}; nothing was written", code)


def _told(error: Exception) -> int:
    """Say an exception in one line; the traceback only with ``--debug``."""
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        error = missing_package(error) or error
    if isinstance(error, EdgeattnError):
        return _say(str(error), error.exit_code)
    if _is_a(error, "ClickException"):
        where = getattr(getattr(error, "ctx", None), "command_path", "edgeattn")
        return _say(f"{where}: {error.format_message()}; see `{where} --help`", 2)  # type: ignore[attr-defined]
    if _is_a(error, "Abort"):
        return EXIT_SIGINT
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    if isinstance(error, MemoryError):
        return _say("out of memory; use a smaller batch or model", 5)
    text = f"unexpected {type(error).__name__}: {printable(str(error), 300)}"
    return _say(f"{text}; this is a bug in edgeattn: run again with --debug and report it", 70)


def _is_a(error: Exception, name: str) -> bool:
    """Whether an exception belongs to a class of the argument parser, whichever copy of it typer carries."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _say(line: str, code: int) -> int:
    print(f"edgeattn: error: {' '.join(line.split())}", file=sys.stderr)
    return code


def _leave(code: int) -> NoReturn:
    """Exit; a signal's code is passed on as the shell expects it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if code in _SIGNALS:
        # Everything is cleaned up by now. A Ctrl-C that hit an exec() inside some import marks the interpreter, which
        # would then kill itself with the signal at exit instead of giving our code.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
