"""What this process is doing now, on a page that outlives it.

The command line works in a child process (:mod:`edgeattn.worker`). The child notes here what native code it is in,
on whose file, and where it is about to write; the parent shares the page and reads it when the child has died.
Used as a library, edgeattn has no parent and no page, and a note goes nowhere.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from types import TracebackType

_NUMBERS = struct.Struct("=di")  # the time limit in seconds, 0 for none; the exit code + 1, 0 while there is none
_NATIVE = 16  # one byte: the number of the note below that holds now; 0 for Python
_STAGE, _NOTES, _NOTE_BYTES = slice(64, 1024), slice(1024, 8192), 112
_FILE, _FOLDER, _WRITTEN = slice(8192, 16384), slice(16384, 24576), slice(24576, 32768)


class Page:
    """Shared memory of one worker: made before the fork, written by the child, read by the parent."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 32768)

    @property
    def seconds(self) -> float:
        """How long the worker may take; 0 for as long as it likes."""
        return float(_NUMBERS.unpack_from(self._shared)[0])

    @property
    def code(self) -> int | None:
        """The exit code the worker came to; None while it is at work."""
        plus_one = int(_NUMBERS.unpack_from(self._shared)[1])
        return plus_one - 1 if plus_one else None

    @property
    def engine(self) -> str:
        """The native library it is in; empty in Python."""
        return self._native().partition("\n")[0]

    @property
    def doing(self) -> str:
        """What it is doing there, else the last stage it began."""
        return self._native().partition("\n")[2] or self._text(_STAGE)

    @property
    def file(self) -> str:
        """The file, or files, it works on, as the user named them."""
        return self._text(_FILE)

    @property
    def folder(self) -> str:
        """The directory it builds an output in; empty before it does."""
        return self._text(_FOLDER)

    @property
    def written(self) -> str:
        """What became of the outputs, for the end of an error line."""
        path = self._text(_WRITTEN)
        return f"'{path}' had been written and is whole" if path else "nothing was written"

    def _native(self) -> str:
        return self._text(_note_at(self._shared[_NATIVE]))

    def _text(self, slot: slice) -> str:
        return os.fsdecode(self._shared[slot].partition(b"\0")[0])

    def _write(self, slot: slice, text: str) -> None:
        self._shared[slot] = _padded(text, slot)

    def _numbers(self, seconds: float, code: int | None) -> None:
        _NUMBERS.pack_into(self._shared, 0, seconds, 0 if code is None else code + 1)


_page: Page | None = None
_notes = [""]


def watched_on(page: Page) -> None:
    """From now on this process notes what it does on ``page``."""
    global _page
    _page = page
    for number, note in enumerate(_notes):
        page._write(_note_at(number), note)


def _note_at(number: int) -> slice:
    start = _NOTES.start + number * _NOTE_BYTES
    return slice(start, start + _NOTE_BYTES)


def _numbered(note: str) -> int:
    """The number of a note, written down where the parent can read it; 0, which is none, when the page is full."""
    if note in _notes:
        return _notes.index(note)
    if _note_at(len(_notes)).stop > _NOTES.stop:
        return 0
    _notes.append(note)
    if _page is not None:
        _page._write(_note_at(len(_notes) - 1), note)
    return len(_notes) - 1


class Native:
    """A stretch of work in a native library: ``with native("ONNX Runtime", "opening the graph"):``.

    Entered around every run of an engine, timed ones too: one byte is written.
    """

    __slots__ = ("_before", "_number")

    def __init__(self, engine: str, doing: str) -> None:
        self._number = _numbered(f"{engine}\n{doing}")
        self._before = 0

    def __enter__(self) -> None:
        if _page is not None:
            self._before = _page._shared[_NATIVE]
            _page._shared[_NATIVE] = self._number

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if _page is not None:
            _page._shared[_NATIVE] = self._before


native = Native


def stage(name: str) -> None:
    """The step of the command that begins now, in a few words."""
    if _page is not None:
        _page._write(_STAGE, name)


def about(files: Iterable[object]) -> None:
    """The files the user named."""
    if _page is not None:
        _page._write(_FILE, " and ".join(str(file) for file in files))


def building_in(folder: object) -> None:
    """An output is built in a temporary directory inside ``folder``."""
    if _page is not None:
        _page._write(_FOLDER, str(folder))


def published(path: object) -> None:
    """The output at ``path`` is in its place, whole."""
    if _page is not None:
        _page._write(_WRITTEN, str(path))


def outcome() -> str:
    """What became of the outputs so far, for the end of an error line."""
    return "nothing was written" if _page is None else _page.written


def allow(seconds: float) -> None:
    """The time this process may take, from its start; 0 for as long as it likes."""
    if _page is not None:
        _page._numbers(seconds, None)


def done(code: int) -> None:
    """All is written and said: whatever happens while the interpreter shuts down, this is the exit code."""
    if _page is not None:
        _page._numbers(_page.seconds, code)


def _padded(text: str, slot: slice) -> bytes:
    size = slot.stop - slot.start
    return os.fsencode(text.replace("\0", ""))[: size - 1].ljust(size, b"\0")
