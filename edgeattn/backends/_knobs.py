"""An engine's own settings, declared once: recipes, ``--engine``, ``compile --help`` and the cards read them here.

A backend that has some derives a frozen dataclass from :class:`Knobs` whose fields are made by :func:`knob`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from edgeattn.errors import UsageError, did_you_mean, printable

if TYPE_CHECKING:
    from edgeattn.backends import Options

_KINDS = {str: "a word", bool: "true or false", int: "a number"}


def knob(default: Any, help: str, known: Sequence[str] = (), kind: type | None = None) -> Any:
    """A setting as a dataclass field.

    Args:
        default: what holds where nothing is said. help: what it does, in a line or two, without a final dot.
        known: the words that it may be; empty for any. kind: its type, where the default does not say it.
    """
    return field(default=default, metadata={"help": help, "known": tuple(known), "kind": kind or type(default)})


@dataclass(frozen=True)
class Knob:
    """One setting, to be told about; ``takes`` and ``default`` are in words."""

    name: str
    takes: str
    default: str
    help: str


@dataclass(frozen=True)
class Knobs:
    """No settings; engines that have some derive from this."""

    @classmethod
    def listed(cls) -> tuple[Knob, ...]:
        """Every setting, in the order of its declaration."""
        return tuple(Knob(f.name, _takes(f.metadata), _said(f.default), f.metadata["help"]) for f in fields(cls))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Their names."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def of(cls, options: Options, where: str = "engine", engine: str = "the engine") -> Self:
        """The settings in ``options.settings``, each of its type; what is not there has its default.

        Args:
            where, engine: name in errors where they were given, and for what.

        Raises:
            UsageError: no such setting, with the nearest; a value of another type or none that it may be; or one that
                does not go with the others.
        """
        known = {f.name: f.metadata for f in fields(cls)}
        for name, value in options.settings.items():
            if name not in known:
                hint = did_you_mean(name, cls.names()) if known else "it has none: leave it out"
                raise UsageError(f"{engine} has no setting '{printable(name, 80)}'", where=where, hint=hint)
            words = known[name]["known"]
            if type(value) is not known[name]["kind"] or (words and value not in words):
                hint = did_you_mean(value, words) if words and isinstance(value, str) else ""
                got = printable(str(value), 40)
                raise UsageError(f"'{name}' is {_takes(known[name])}, not '{got}'", where=where, hint=hint)
        found = cls(**options.settings)
        found.check(options, where)
        return found

    def check(self, options: Options, where: str) -> None:
        """Refuse settings that do not go together.

        Raises:
            UsageError: says which.
        """


def _takes(metadata: Any) -> str:
    return " or ".join(metadata["known"]) or _KINDS[metadata["kind"]]


def _said(value: Any) -> str:
    if value is MISSING or value in (None, ""):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
