"""``manifest.json``: what a bundle is, and the sha256 of every file in it.

Reading is strict, because what follows is native code on these bytes: unknown or missing keys, duplicate keys, paths
that leave the bundle, links, extra or missing files and any changed byte are refused before an engine sees a file.
A manifest guards against damage and mix-ups; who wrote it is for a signature over it to say.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import NoReturn

from edgeattn.bundle._reader import HINT, SCHEMA_VERSION, Reader
from edgeattn.bundle._values import FileEntry, GraphEntry, Manifest, SelfTestEntry, Tolerance
from edgeattn.errors import BadInput, IntegrityError, printable
from edgeattn.files import opened, read_regular

__all__ = ["NAME", "FileEntry", "GraphEntry", "Manifest", "SelfTestEntry", "Tolerance", "entry", "parse", "verify"]

NAME = "manifest.json"
MAX_BYTES = 16 << 20


def parse(text: str, where: str = NAME) -> Manifest:
    """A manifest from its JSON text.

    Raises:
        IntegrityError: not JSON, a duplicate, unknown or missing key, a wrong type, a path that is not plain, a
            schema version this edgeattn does not read, or any byte that differs from what ``Manifest.dumps`` wrote.
    """
    reader = Reader(where)
    try:
        raw = json.loads(text, object_pairs_hook=reader.unique, parse_constant=reader.no_constant)
    except (ValueError, RecursionError) as e:
        reader.refuse(f"is not JSON ({e})")
    if isinstance(raw, dict) and type(raw.get("schema_version")) is int and raw["schema_version"] > SCHEMA_VERSION:
        raise IntegrityError(
            f"has schema version {raw['schema_version']}, this edgeattn reads {SCHEMA_VERSION}",
            where=where,
            hint="upgrade edgeattn",
        )
    if isinstance(raw, dict) and "digest" not in raw:
        reader.refuse("'manifest' lacks 'digest'")
    manifest = reader.manifest({k: v for k, v in raw.items() if k != "digest"} if isinstance(raw, dict) else raw)
    _check_references(manifest, reader)
    if manifest.dumps() != text:
        reader.refuse("has changed: its digest is not that of its content")
    return manifest


def verify(directory: Path) -> Manifest:
    """Check a bundle against its manifest: the same files, the same bytes, nothing else.

    Raises:
        BadInput: ``directory`` is not a directory.
        IntegrityError: anything differs; the first difference is named.
    """
    if not directory.is_dir():
        what = "no such bundle" if not directory.exists() else "is not a bundle directory"
        raise BadInput(what, where=str(directory), hint="name the directory that holds manifest.json")
    path = directory / NAME
    if not os.path.lexists(path):
        raise IntegrityError("has no manifest.json", where=str(directory), hint=HINT)
    data = read_regular(path, MAX_BYTES, IntegrityError, follow_symlinks=False)
    try:
        manifest = parse(data.decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise IntegrityError("is not UTF-8", where=str(path), hint=HINT) from None
    _same_files(directory, set(manifest.files))
    for name in sorted(manifest.files):
        _same_bytes(directory / name, manifest.files[name])
    return manifest


def entry(path: Path) -> FileEntry:
    """Checksum and length of a file on disk."""
    sha, size = hashlib.sha256(), 0
    with opened(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            size += len(block)
    return FileEntry(sha.hexdigest(), size)


def _same_files(directory: Path, listed: set[str]) -> None:
    folders = {parent.as_posix() for name in listed for parent in Path(name).parents} - {"."}
    found: set[str] = set()
    for folder, names, leaves in os.walk(directory, onerror=_unreadable):
        for name in (*names, *leaves):
            path = Path(folder, name)
            inside = path.relative_to(directory).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) and inside in folders:
                continue
            if not stat.S_ISREG(mode):
                raise IntegrityError(
                    "is a link or special file" if not stat.S_ISDIR(mode) else "is a directory the manifest lacks",
                    where=str(path),
                    hint=HINT,
                )
            found.add(inside)
    found.discard(NAME)
    for problem, paths in (("is not in the manifest", found - listed), ("is missing", listed - found)):
        if paths:
            raise IntegrityError(problem, where=str(directory / min(paths)), hint=HINT)


def _unreadable(error: OSError) -> NoReturn:
    raise IntegrityError(f"cannot be read: {error.strerror}", where=str(error.filename), hint="check permissions")


def _same_bytes(path: Path, expected: FileEntry) -> None:
    try:
        size = path.lstat().st_size
        got = entry(path) if size == expected.bytes else FileEntry("", size)
    except OSError as e:
        _unreadable(e)
    if got.bytes != expected.bytes:
        raise IntegrityError(f"has {got.bytes} bytes, the manifest says {expected.bytes}", where=str(path), hint=HINT)
    if got != expected:
        raise IntegrityError(
            f"has changed: sha256 {got.sha256[:12]}…, the manifest says {expected.sha256[:12]}…",
            where=str(path),
            hint=HINT,
        )


def _check_references(manifest: Manifest, reader: Reader) -> None:
    """Every path a manifest uses is one of its files, and no two files differ only by case or Unicode form."""
    used = [path for graph in manifest.graphs.values() for path in (graph.file, graph.portable)]
    used += [*manifest.assets.values(), *([manifest.selftest.file] if manifest.selftest else [])]
    for path in used:
        if path not in manifest.files:
            reader.refuse(f"names '{printable(path, 80)}', which is not among its files")
    seen: dict[str, str] = {}
    for path in manifest.files:
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in seen or folded == NAME:
            reader.refuse(f"names '{path}' and '{seen.get(folded, NAME)}', which are one file on some systems")
        seen[folded] = path
    if not manifest.graphs:
        reader.refuse("has no graphs")
    if (manifest.wiring is None) != (len(manifest.graphs) == 1):
        reader.refuse("must have a wiring exactly if it has several graphs")
    if manifest.wiring is not None and manifest.wiring.loop not in manifest.graphs:
        reader.refuse(f"is wired to loop over '{printable(manifest.wiring.loop, 80)}', which is not a graph")
