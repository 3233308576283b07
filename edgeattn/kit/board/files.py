"""The kit's files: what they are is checked before they are used, and what is written appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Iterator

from .refusal import BAD_INPUT, INTEGRITY, Refused

MANIFEST, CONFIG, GOLDENS, PLANS, BUILT = "MANIFEST", "kit.json", "goldens.npz", "plans", "built.json"
REPORT, OUTPUTS, SAMPLES = "report.json", "outputs.npz", "samples.npz"
_TEMPORARY = ".tmp-"
_AGAIN = "copy the kit to the board again"


class Kit:
    """A kit whose every file is the one that was packed.

    Attributes:
        folder: where it lies. id: sha256 of its MANIFEST, which names every other file's. told: ``kit.json``.

    Raises:
        Refused: no kit (3), or a file that is missing or altered (6).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = verify(folder)
        self.told: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))

    def __getitem__(self, key: str) -> Any:
        return self.told[key]


def sha256(path: Path) -> str:
    """Of a file's bytes, in lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verify(folder: Path) -> str:
    """Hold every file of a kit against its MANIFEST (lines as of ``sha256sum``); the sha256 of that file."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise Refused(BAD_INPUT, "is no build kit: it holds no MANIFEST", str(folder), "give the kit's directory")
    listed = [line.partition("  ") for line in manifest.read_text("utf-8").splitlines()]
    names = [name for _, _, name in listed]
    if CONFIG not in names or len(set(names)) != len(names):
        raise Refused(INTEGRITY, "is not as edgeattn wrote it", str(manifest), _AGAIN)
    for expected, _, name in listed:
        path = folder / name
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise Refused(INTEGRITY, "names a file outside the kit", str(manifest), _AGAIN)
        if not path.exists() or not stat.S_ISREG(path.lstat().st_mode):
            raise Refused(INTEGRITY, "is missing, or no regular file", str(path), _AGAIN)
        if sha256(path) != expected:
            raise Refused(INTEGRITY, "is not the file that was packed: its sha256 differs", str(path), _AGAIN)
    return sha256(manifest)


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left half-written."""
    for path in folder.glob(_TEMPORARY + "*"):
        number = path.name[len(_TEMPORARY) :].partition("-")[0]
        try:
            os.kill(int(number), 0)
        except ValueError:  # not ours
            continue
        except ProcessLookupError:
            shutil.rmtree(str(path)) if path.is_dir() else path.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file that becomes ``path`` when the block ends without an exception."""
    work = _beside(path)
    try:
        yield work
        _flush(work)
        os.replace(str(work), str(path))
        _flush(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            work.unlink()


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that takes the place of ``path`` when the block ends without an exception."""
    work = _beside(path)
    old = work.with_name(work.name + "-old")
    work.mkdir()
    try:
        yield work
        for file in work.iterdir():
            _flush(file)
        if path.exists():
            os.rename(str(path), str(old))
        os.rename(str(work), str(path))
        _flush(path.parent)
    finally:
        if old.exists() and not path.exists():
            os.rename(str(old), str(path))
        for left in (work, old):
            shutil.rmtree(str(left), ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # file systems without fsync on directories
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
