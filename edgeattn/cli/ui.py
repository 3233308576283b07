"""How the command line speaks: data on stdout, everything else on stderr, one line per error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeattn import phase
from edgeattn.errors import EdgeattnError, OutOfResources, UsageError, printable


class Ui:
    """One command's voice.

    While it is open, stdout leads to stderr, so that nothing a library prints can land in the data; ``emit`` and
    ``table`` write to the real stdout. An error that names none of the command's files gets the file it is about.

    Args:
        as_json: stdout gets one JSON object instead of tables.
        quiet: no progress.
        files: what the command reads, as the user named it.
        out: what it writes.
        timeout: seconds the command may take, 0 for no limit.
    """

    def __init__(
        self,
        as_json: bool = False,
        quiet: bool = False,
        files: Sequence[str | Path] = (),
        out: Path | None = None,
        timeout: float = 0,
    ) -> None:
        self.as_json, self._quiet = as_json, quiet
        self._files, self._out, self._timeout = list(dict.fromkeys(map(str, files))), out, timeout
        self._progress: Any = None
        self._task: Any = None
        self._label = ""

    def __enter__(self) -> Ui:
        phase.about(self._files)
        phase.allow(self._timeout)
        self._stdout = sys.stdout
        self._stdout.flush()
        self._real = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop_progress()
        sys.stdout = self._stdout
        os.dup2(self._real, 1)
        os.close(self._real)
        if isinstance(error, MemoryError):
            raise OutOfResources(
                "ran out of memory", where=" and ".join(self._files), hint=f"{phase.outcome()}; use a smaller model"
            ) from error
        if isinstance(error, EdgeattnError) and not isinstance(error, UsageError):
            self._place(error)

    def _place(self, error: EdgeattnError) -> None:
        """Put the file before the engine or graph that an error names."""
        known = [_STDOUT, *self._files, *([str(self._out)] if self._out else [])]
        elsewhere = error.where.startswith("task ")  # what a user's task gives is not the model's fault
        if self._files and not elsewhere and not any(name in error.where for name in known):
            error.where = f"{self._files[0]}: {error.where}" if error.where else self._files[0]

    def listen(self, what: str, done: int, total: int | None) -> None:
        """Progress: a bar on a terminal, one plain line per step elsewhere."""
        phase.stage(what)
        if self._quiet:
            return
        if not sys.stderr.isatty():
            if what != self._label:
                self._label = what
                self.log(what)
            return
        self._bar(what, done, total)

    def log(self, line: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            print(printable(line, _LONG), file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """One warning on stderr, even when quiet."""
        self._stop_progress()
        print(f"edgeattn: warning: {printable(line, _LONG)}", file=sys.stderr, flush=True)

    def emit(self, value: Any, text: str = "") -> None:
        """The command's result: ``value`` as JSON, or ``text`` for a person."""
        self._stop_progress()
        out = _data(value) if self.as_json else _safe(text)
        if out:
            self._write(out + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
        """A table on stdout; silent with ``--json``, whose data ``emit`` writes."""
        if self.as_json:
            return
        from io import StringIO

        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        self._stop_progress()
        table = Table(title=title or None, title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            table.add_column(
                column, no_wrap=index == 0, overflow="fold"
            )  # the first names the row: never cut or broken
        for row in rows:
            table.add_row(*(_styled(str(cell), Text) for cell in row))
        terminal = os.isatty(self._real)
        # Piped output keeps whole lines: a name cut off by a narrow default width cannot be searched for.
        console = Console(file=StringIO(), force_terminal=terminal, width=None if terminal else 140)
        console.print(table)
        self._write(console.file.getvalue())  # type: ignore[attr-defined]

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._real, data) :]
        except BrokenPipeError:  # whoever read it has had enough
            raise
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise OutOfResources(what, where=_STDOUT, hint="free some space, or write elsewhere") from error

    def _bar(self, what: str, done: int, total: int | None) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
        if what != self._label:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._label, self._task = what, self._progress.add_task(what, total=total)
        self._progress.update(self._task, completed=done, total=total)

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._task, self._label = None, None, ""


_STDOUT = "stdout"
_LONG = 100_000  # characters; a model whose names are longer is not read to the end anyway


def _safe(text: str) -> str:
    """Text for a person: names out of files cannot drive the terminal."""
    return "\n".join(printable(line, _LONG) for line in text.split("\n"))


def _data(value: Any) -> str:
    """JSON; characters that a terminal would act on are escaped in it too, and mean the same."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "bold yellow", "built": "cyan", "warn": "yellow"}


def _styled(cell: str, text: Any) -> Any:
    return text(_safe(cell), style=_STYLES.get(cell, ""))
