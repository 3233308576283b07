"""Outputs appear whole or not at all.

What a command writes is built in a sibling ``.tmp-<pid>-<random>`` directory, flushed to disk, and renamed into
place. Until that rename the old output is untouched; a failure, Ctrl-C or SIGTERM removes the temporary directory,
and one that a killed process left behind is swept the next time something is written beside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from edgeattn import phase
from edgeattn.errors import OutOfResources, OutputExists, UsageError
from edgeattn.files import EXCHANGE, NOREPLACE, lstat_mode, opened, rename, sync, sync_tree

MARKER = ".edgeattn"
_PREFIX = ".tmp-"
_SCRATCH = "edgeattn-"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EIO: "the disk reported an I/O error",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "memory is used up",
}
_REFUSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
}


@contextlib.contextmanager
def new_directory(out: Path, force: bool = False, *, mark: bool = False) -> Iterator[Path]:
    """A temporary directory to fill; it becomes ``out`` when the block ends without an exception.

    Args:
        out: the directory to publish. Its parent must exist.
        force: replace a directory that is empty or that edgeattn wrote.
        mark: leave a ``.edgeattn`` file inside, so that a later ``force`` knows the directory as ours. A run
            directory (``report.json``) and a bundle (``manifest.json``) are known without it.

    Raises:
        OutputExists: ``out`` exists and ``force`` is False; before any work.
        UsageError: ``out`` cannot be written there, or is not ours to replace; before any work.
        OutOfResources: disk full, read-only or failing.
    """
    out = _ready(out, force, directory=True)
    with _building(out) as work:
        built = work / "new"
        with _blaming(out):
            built.mkdir()
            if mark:
                (built / MARKER).touch()
        yield built
        with _blaming(out):
            sync_tree(built)
            _put_in_place(built, out, work, force)


@contextlib.contextmanager
def new_file(out: Path, force: bool = False) -> Iterator[Path]:
    """The path of a temporary file to write; it becomes ``out`` when the block ends without an exception.

    What else is written beside that path (a file of weights) is put in place under its own name before it, and must
    not exist there: until the last rename the old ``out`` is untouched and whole.

    Raises:
        OutputExists, UsageError, OutOfResources: as ``new_directory``.
    """
    out = _ready(out, force, directory=False)
    with _building(out) as work:
        built = work / "new" / out.name
        with _blaming(out):
            built.parent.mkdir()
        yield built
        with _blaming(out):
            companions = [path for path in built.parent.iterdir() if path != built]
            for path in (*companions, built):
                sync(path)
            with _withdrawn_on_failure() as placed:
                for path in companions:
                    if not rename(path, out.parent / path.name, NOREPLACE):
                        raise OutputExists(out.parent / path.name)
                    placed.append(out.parent / path.name)
                _put_in_place(built, out, work, force)


@contextlib.contextmanager
def _withdrawn_on_failure() -> Iterator[list[Path]]:
    """Files that were put in place are removed again when what they belong to does not follow."""
    placed: list[Path] = []
    try:
        yield placed
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise


def free_name(path: Path) -> str:
    """The name of ``path``, or where something stands there already, with a random word in it."""
    return path.name if lstat_mode(path) is None else f"{path.stem}.{secrets.token_hex(4)}{path.suffix}"


def guard(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs, lies inside one, or contains one.

    Raises:
        UsageError: naming both paths.
    """
    target = _resolved(out)
    for given in inputs:
        source = _resolved(given)
        if target == source or _same_file(target, source):
            raise UsageError(f"is also the input '{given}'", where=str(out), hint="choose another --out")
        if source in target.parents:
            raise UsageError(f"lies inside the input '{given}'", where=str(out), hint="choose an --out outside it")
        if target in source.parents:
            raise UsageError(f"contains the input '{given}'", where=str(out), hint="choose another --out")


def _ready(out: Path, force: bool, directory: bool) -> Path:
    """Every reason to refuse that can be known before the work: the path, made absolute."""
    where = str(out)
    if "\0" in where or not out.name or out.name in (".", ".."):
        raise UsageError("is not a usable output name", where=where or "--out", hint="name a new file or directory")
    try:
        out = out.absolute()
        mode = lstat_mode(out)
        parent = lstat_mode(out.parent.resolve())
    except OSError as e:
        raise _named(e, where) from e
    if parent is None or not stat.S_ISDIR(parent):
        what = "its parent directory does not exist" if parent is None else "its parent is not a directory"
        raise UsageError(what, where=where, hint=f"mkdir -p '{out.parent}'")
    if mode is not None:
        _may_replace(out, mode, force, directory)
    return out


def _may_replace(out: Path, mode: int, force: bool, directory: bool) -> None:
    if stat.S_ISLNK(mode):
        raise UsageError("is a symbolic link", where=str(out), hint="name the file or directory itself")
    if not force:
        raise OutputExists(out)
    if not directory:
        if not stat.S_ISREG(mode):
            raise UsageError("is not a regular file", where=str(out), hint="choose another --out")
        return
    if not stat.S_ISDIR(mode):
        raise UsageError("is a file, and a directory is to be written", where=str(out), hint="choose another --out")
    if os.listdir(out) and not _written_by_us(out):
        raise UsageError(
            "was not written by edgeattn, so --force does not replace it",
            where=str(out),
            hint="choose another --out, or remove it yourself",
        )
    if os.path.ismount(out) or _in_use(out):
        raise UsageError("is a directory in use", where=str(out), hint="choose another --out")


def _written_by_us(out: Path) -> bool:
    """Whether a directory holds our marker, a report or a manifest of ours; a file of that name alone is not enough."""
    if (out / ".git").exists():
        return False
    if (out / MARKER).is_file():
        return True
    signs = (("report.json", b'"schema_version"', b'"gates"'), ("manifest.json", b'"schema_version"', b'"edgeattn"'))
    for name, *words in signs:
        path = out / name
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                text = path.read_bytes()
                if all(word in text for word in words):
                    return True
    return False


def _in_use(out: Path) -> bool:
    """Whether ``out`` is the home directory, or the working directory or one above it."""
    with contextlib.suppress(OSError, RuntimeError):
        here, home, target = Path.cwd().resolve(), Path.home().resolve(), out.resolve()
        return target in (home, here) or target in here.parents
    return False


@contextlib.contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A sibling temporary directory, locked while it is in use and gone afterwards whatever happens."""
    sweep(out.parent)
    phase.building_in(out.parent)
    work = out.parent / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    lock = -1
    with _sigterm_raises():
        try:
            with _blaming(out):
                _name_fits(out)
                work.mkdir(mode=0o700)
                lock = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield work
        except OSError as e:
            if e.errno not in _FULL:
                raise
            raise _named(e, str(out)) from e
        finally:
            try:
                _clear(work)
            except BaseException:  # Ctrl-C in the middle of clearing: finish it, then obey
                _clear(work)
                raise
            if lock >= 0:
                os.close(lock)


@contextlib.contextmanager
def _blaming(out: Path) -> Iterator[None]:
    """Whatever the file system refuses in here, it refuses for ``out``."""
    try:
        yield
    except OSError as e:
        raise _named(e, str(out)) from e


def _name_fits(out: Path) -> None:
    try:
        limit = os.pathconf(out.parent, "PC_NAME_MAX")
    except (OSError, ValueError):
        limit = 255
    if len(os.fsencode(out.name)) > limit:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(out))


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does, so that ``finally`` runs; only the main thread can arrange that."""
    default = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if not default:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _put_in_place(built: Path, out: Path, work: Path, force: bool) -> None:
    """Rename ``built`` to ``out``. With ``force`` the old one and the new one change places in one step.

    Where the file system cannot exchange two names, the old one steps aside first; ``_clear`` (or, after a SIGKILL
    in between, the next ``sweep``) puts it back if the new one did not arrive.
    """
    if not rename(built, out, NOREPLACE):
        directory = built.is_dir()
        _may_replace(out, out.lstat().st_mode, force, directory)  # it may have changed while the work went on
        if not directory:
            os.replace(built, out)
        elif not rename(built, out, EXCHANGE):
            (work / "out").write_text(out.name, "utf-8", errors="surrogateescape")
            os.rename(out, work / "old")
            os.rename(built, out)
    phase.published(out)
    sync(out.parent)


def sweep(directory: Path) -> None:
    """Remove temporary directories here whose process is gone and whose lock is free. Never raises."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            pid = entry.name.removeprefix(_PREFIX).partition("-")[0]
            ours = entry.name.startswith(_PREFIX) and pid.isdigit() and entry.is_dir(follow_symlinks=False)
            if not ours or entry.stat(follow_symlinks=False).st_uid != os.geteuid() or _alive(int(pid)):
                continue
            with contextlib.suppress(OSError), opened(Path(entry.path)) as fd:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a process of another container may hold it
                _clear(Path(entry.path))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in the system's place for temporary files, for what a library wants to find on disk."""
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}-") as folder:
        yield Path(folder)


def sweep_scratch(pid: int) -> None:
    """Remove what ``scratch`` made in a process that is gone. Never raises."""
    with contextlib.suppress(OSError):
        for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{pid}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _clear(work: Path) -> None:
    """Put back an old output that stepped aside for one that never arrived, then remove the temporary directory."""
    if (work / "old").exists():
        try:
            target = work.parent / (work / "out").read_text("utf-8", errors="surrogateescape")
            if target.parent == work.parent and lstat_mode(target) is None:
                os.rename(work / "old", target)
        except (OSError, ValueError):
            return  # it holds the only copy
    shutil.rmtree(work, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _same_file(a: Path, b: Path) -> bool:
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def _named(error: OSError, where: str) -> UsageError | OutOfResources:
    code = error.errno or 0
    if code in _FULL:
        return OutOfResources(_FULL[code], where=where, hint="nothing was replaced; free some and run again")
    if code in _REFUSED:
        return OutOfResources(_REFUSED[code], where=where, hint="choose an --out you may write to")
    if code == errno.ENAMETOOLONG:
        return UsageError("its name is too long for this file system", where=where, hint="choose a shorter --out")
    return OutOfResources(f"cannot be written: {error.strerror or error}", where=where, hint="nothing was replaced")
