"""The command line: ``edgeattn COMMAND``. The only code that prints or exits; each command is a thin call.

The command runs in a worker process (:mod:`edgeattn.worker`); this process waits for it and tells how it died, if so.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

from edgeattn import phase, worker
from edgeattn.errors import EXIT_SIGINT, EdgeattnError, missing_package, printable


def main() -> NoReturn:
    """Run the command line and exit with the contract's code."""
    try:
        _open_standard_streams()
        ended = worker.supervise()
    except EdgeattnError as error:
        _leave(_told(error))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes on what the terminal sent to both
        _leave(_stopped(EXIT_SIGINT))
    _leave(_work() if ended is None else _accounted(ended))


def _work() -> int:
    """The command itself, in the worker: its exit code."""
    interrupts: list[float] = []
    code: Any
    try:
        _note_interrupts(interrupts)
        from edgeattn.cli.app import app

        code = app(standalone_mode=False)
    except Exception as error:
        code = EXIT_SIGINT if interrupts else _told(error)
    except KeyboardInterrupt:
        code = EXIT_SIGINT
    except SystemExit as error:
        code = error.code
    if code in _SIGNALS:  # the argument parser turns Ctrl-C into a code, publish SIGTERM into a SystemExit
        code = _stopped(code)
    return code if isinstance(code, int) else 0


def _accounted(ended: worker.Ended) -> int:
    """The worker's exit code, and one line about its death if it was killed."""
    error = worker.account(ended)
    code = ended.code if error is None else error.exit_code
    if ended.said and ("--debug" in sys.argv or code not in _NATIVE_FAULTS):
        print(ended.said.rstrip("\n"), file=sys.stderr)
    if error is not None:
        return _say(str(error), error.exit_code)
    return _stopped(128 + ended.stopped, ended.page.written) if code is None else code


def _open_standard_streams() -> None:
    """Where stdin, stdout or stderr is closed, the next file to be opened would take its place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _note_interrupts(noted: list[float]) -> None:
    """Note every Ctrl-C: one that hits a native import surfaces as another error, such as a missing package."""

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(time.monotonic())
        if len(noted) < 2 or noted[-1] - noted[-2] > _ONE_KEYSTROKE_S:  # the terminal sends it, and our parent
            signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, note)


_ONE_KEYSTROKE_S = 0.2
_SIGNALS = {
    EXIT_SIGINT: "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGHUP: "the terminal was closed",
}
_NATIVE_FAULTS = (3, 4, 5, 6)  # exit codes whose one line says it all: what the engine printed beside it is noise


def _stopped(code: int, outcome: str = "") -> int:
    return _say(f"{_SIGNALS[code]}; {outcome or phase.outcome()}", code)


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
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and told: too late to be interrupted
    phase.done(code)
    sys.exit(code)
