"""What a search has tried, kept across runs: a line of JSON a trial, in the user's cache.

The file's name is a digest of all that a trial's result follows from: a search that was stopped goes on where it was,
and one whose model, data, settings or engine changed begins anew. Without a place to write, a search goes on and says
that it cannot be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeattn.errors import UsageError
from edgeattn.files import read_regular

_MAX_BYTES = 64 << 20


def cache() -> Path:
    """Where edgeattn keeps what may be deleted: ``EDGEATTN_CACHE``, else the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("EDGEATTN_CACHE") or f"{home}/edgeattn").expanduser()


class Journal:
    """The finished trials of one search, by name.

    Args:
        facts: all that a trial's result follows from, JSON-able.

    Attributes:
        path: the state file. known: trials that were found in it. fault: why it cannot be written; empty if it can.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.path = cache() / "mixed" / f"{digest[:32]}.jsonl"
        self.fault = ""
        self._trials = dict(_read(self.path))
        self.known = len(self._trials)

    def recall(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The result of a trial: as written down, else measured now and written down."""
        if name not in self._trials:
            self._trials[name] = measure()
            self._append({"trial": name, "found": self._trials[name]})
        return self._trials[name]

    def __contains__(self, name: str) -> bool:
        return name in self._trials

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # One write, so that lines of two processes do not mix; it ends what a killed process left of one.
                file.write(f"\n{json.dumps(line, allow_nan=False)}")
        except OSError as error:
            self.fault = f"{self.path.parent}: {error.strerror or error}"


def _read(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The whole lines of a state file; what a killed process left of a line is not one."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    try:
        text = read_regular(path, _MAX_BYTES, UsageError).decode("utf-8", errors="replace")
    except UsageError:
        return found
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found.append((str(entry["trial"]), dict(entry["found"])))
    return found
