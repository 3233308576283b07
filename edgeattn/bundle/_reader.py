"""Plain JSON values to the values of a manifest, strictly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn

from edgeattn.bundle._values import FileEntry, GraphEntry, Manifest, SelfTestEntry, Tolerance
from edgeattn.errors import IntegrityError, printable
from edgeattn.program import Stop, TensorSpec, Wiring

SCHEMA_VERSION = 1
MAX_FILES = 10_000
HINT = "get the bundle again, or build it again with `edgeattn run`"


def plain_path(text: str) -> bool:
    """Whether ``text`` is a POSIX path that stays below its root: no ``..``, no ``/`` first, no control characters."""
    parts = text.split("/")
    return (
        0 < len(text) <= 512
        and "\\" not in text
        and not any(part in ("", ".", "..") or len(part) > 200 for part in parts)
        and not any(unicodedata.category(c)[0] == "C" for c in text)
    )


class Reader:
    """Plain JSON values to dataclasses, each type checked, each complaint with its key."""

    def __init__(self, where: str) -> None:
        self._where = where

    def refuse(self, what: str) -> NoReturn:
        raise IntegrityError(what, where=self._where, hint=HINT)

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.refuse(f"has the key '{printable(twice, 80)}' twice")
        return values

    def no_constant(self, text: str) -> NoReturn:
        self.refuse(f"holds {text}, which is not a number")

    def manifest(self, raw: Any) -> Manifest:
        values = self.keys(raw, Manifest, "manifest")
        version = values["schema_version"]
        if type(version) is not int or version != SCHEMA_VERSION:
            self.refuse(f"has schema version {printable(str(version), 40)}, this edgeattn reads {SCHEMA_VERSION}")
        for key in ("edgeattn", "model", "target", "backend", "device"):
            self.text(values[key], key)
        if values["task"] is not None:
            self.text(values["task"], "task")
        values["precision"] = self.mapping(values["precision"], "precision", self.text)
        if set(values["precision"]) != {"requested", "effective"}:
            self.refuse("must say which precision was requested and which is effective")
        values["created_with"] = self.mapping(values["created_with"], "created_with", self.text)
        values["assets"] = self.mapping(values["assets"], "assets", self.path)
        values["options"] = self.mapping(values["options"], "options", self.option)
        values["engine"] = self.mapping(values["engine"], "engine", lambda value, _: value)
        values["graphs"] = self.mapping(values["graphs"], "graphs", self.graph)
        values["wiring"] = None if values["wiring"] is None else self.wiring(values["wiring"])
        values["selftest"] = None if values["selftest"] is None else self.selftest(values["selftest"])
        values["files"] = self.mapping(values["files"], "files", self.file)
        if len(values["files"]) > MAX_FILES:
            self.refuse(f"names more than {MAX_FILES} files")
        for path in values["files"]:
            self.path(path, "files")
        return Manifest(**values)

    def keys(self, raw: Any, kind: type, at: str) -> dict[str, Any]:
        """The values of an object that must have exactly the fields of ``kind``."""
        if not isinstance(raw, dict):
            self.refuse(f"'{at}' is not an object")
        expected = {f.name for f in fields(kind)}
        for problem, names in (("lacks", expected - set(raw)), ("has the unknown key", set(raw) - expected)):
            if names:
                self.refuse(f"'{at}' {problem} '{printable(min(names), 80)}'")
        return dict(raw)

    def mapping(self, raw: Any, at: str, value: Callable[[Any, str], Any]) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self.refuse(f"'{at}' is not an object")
        return {key: value(item, f"{at}.{printable(key, 80)}") for key, item in raw.items()}

    def text(self, raw: Any, at: str) -> str:
        if not isinstance(raw, str):
            self.refuse(f"'{at}' is not text")
        return raw

    def texts(self, raw: Any, at: str) -> tuple[str, ...]:
        if not isinstance(raw, list):
            self.refuse(f"'{at}' is not a list")
        return tuple(self.text(item, at) for item in raw)

    def whole(self, raw: Any, at: str, least: int = 0) -> int:
        if type(raw) is not int or not least <= raw < 1 << 63:
            self.refuse(f"'{at}' is not a whole number of at least {least}")
        return raw

    def number(self, raw: Any, at: str) -> Any:
        if type(raw) not in (int, float) or not 0 <= raw < float("inf"):
            self.refuse(f"'{at}' is not a number of at least 0")
        return raw  # as it stands: 0 and 0.0 are different bytes of the digest

    def option(self, raw: Any, at: str) -> str | int:
        return raw if isinstance(raw, str) else self.whole(raw, at)

    def path(self, raw: Any, at: str) -> str:
        text = self.text(raw, at)
        if not plain_path(text):
            self.refuse(f"'{at}' names '{printable(text, 80)}', which is not a plain path inside the bundle")
        return text

    def file(self, raw: Any, at: str) -> FileEntry:
        values = self.keys(raw, FileEntry, at)
        if not re.fullmatch(r"[0-9a-f]{64}", self.text(values["sha256"], at)):
            self.refuse(f"'{at}' has no sha256")
        return FileEntry(values["sha256"], self.whole(values["bytes"], at))

    def graph(self, raw: Any, at: str) -> GraphEntry:
        values = self.keys(raw, GraphEntry, at)
        inputs, outputs = (self.specs(values[key], f"{at}.{key}") for key in ("inputs", "outputs"))
        return GraphEntry(self.path(values["file"], at), self.path(values["portable"], at), inputs, outputs)

    def specs(self, raw: Any, at: str) -> tuple[TensorSpec, ...]:
        if not isinstance(raw, list):
            self.refuse(f"'{at}' is not a list")
        specs = tuple(self.spec(item, at) for item in raw)
        if len({spec.name for spec in specs}) != len(specs):
            self.refuse(f"'{at}' names a tensor twice")
        return specs

    def spec(self, raw: Any, at: str) -> TensorSpec:
        values = self.keys(raw, TensorSpec, at)
        if not isinstance(values["shape"], list):
            self.refuse(f"'{at}' has no shape")
        shape = tuple(d if isinstance(d, str) else self.whole(d, at) for d in values["shape"])
        return TensorSpec(self.text(values["name"], at), self.text(values["dtype"], at), shape)

    def wiring(self, raw: Any) -> Wiring:
        values = self.keys(raw, Wiring, "wiring")
        feeds, state = (self.mapping(values[key], f"wiring.{key}", self.text) for key in ("feeds", "state"))
        stop = self.keys(values["stop"], Stop, "wiring.stop")
        ends = [*feeds, *feeds.values(), *state, *state.values()]
        ends += [self.text(stop[key], f"wiring.stop.{key}") for key in ("token", "emits")]
        ends += [first] if (first := self.text(stop["first"], "wiring.stop.first")) else []
        for end in ends:
            if not all(end.partition(".")[::2]):
                self.refuse(f"'wiring' has the edge end '{printable(end, 80)}', which is not GRAPH.TENSOR")
        for key in ("start", "end", "max_steps"):
            self.whole(stop[key], f"wiring.stop.{key}", 1 if key == "max_steps" else 0)
        return Wiring(feeds, state, Stop(**stop))

    def selftest(self, raw: Any) -> SelfTestEntry:
        values = self.keys(raw, SelfTestEntry, "selftest")
        if type(values["forced"]) is not bool:
            self.refuse("'selftest.forced' is not true or false")
        return SelfTestEntry(
            self.path(values["file"], "selftest.file"),
            self.texts(values["feeds"], "selftest.feeds"),
            self.texts(values["outputs"], "selftest.outputs"),
            values["forced"],
            self.mapping(values["tolerance"], "selftest.tolerance", self.tolerance),
        )

    def tolerance(self, raw: Any, at: str) -> Tolerance:
        values = self.keys(raw, Tolerance, at)
        return Tolerance(self.number(values["atol"], at), self.number(values["rtol"], at))
