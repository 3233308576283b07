"""Every way edgeattn says no.

    EdgeattnError                70  our bug, unless a subclass says otherwise
    ├── BudgetMissed              1  no mixture of precisions loses as little as was allowed
    ├── UsageError                2  the command line or recipe is wrong
    │   ├── RecipeError           2  a recipe key or value, with its line
    │   ├── UnknownName           2  a registry name, with the nearest ones
    │   └── OutputExists          2  would overwrite; --force allows it
    ├── BadInput                  3  the file or data handed in is not what it must be
    ├── Unsupported               4  right, but not possible here or with this engine
    │   ├── MissingPackage        4  an extra is not installed
    │   └── EngineFailed          4  the engine refused or died
    ├── OutOfResources            5  time, memory or disk
    └── IntegrityError            6  bytes are not the ones that were signed off, or may not be trusted

A failed gate is not an error but an answer: exit 1, and 75 when the measurement cannot settle it. A budget that cannot
be met leaves nothing to judge, so it is told as an error.
Each error carries *where* (file, recipe line, node), *what*, and a *hint* that mends it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_INCONCLUSIVE = 75
EXIT_SIGINT = 130
VERDICT_CODES = {"pass": EXIT_OK, "built": EXIT_OK, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}
"""The exit code of a report's verdict."""


_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, bidi, unassigned; separators of lines


def printable(text: str, limit: int = 400) -> str:
    """Text from a file made safe for a terminal: control and bidi characters escaped, length bounded."""
    safe = "".join(
        c if unicodedata.category(c) not in _UNSAFE else c.encode("unicode_escape").decode() for c in text[: limit + 1]
    )
    return safe if len(safe) <= limit else safe[:limit] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean 'cbam'?``, or the known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    shown = ", ".join(names[:12])
    return f"known: {shown}" + (" …" if len(names) > 12 else "") if names else "none is known"


class EdgeattnError(Exception):
    """Base of all errors that edgeattn raises on purpose.

    Args:
        what: what is wrong, in one clause.
        where: the file, recipe line, node or option it concerns.
        hint: the action that mends it.
    """

    exit_code = 70

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return printable(f"{line}; {self.hint}" if self.hint else line, 1000)


class BudgetMissed(EdgeattnError):
    """A search found nothing that loses as little as was allowed: a gate that cannot be met."""

    exit_code = EXIT_GATE_FAILED


class UsageError(EdgeattnError):
    """The command line or a recipe is wrong."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe cannot be read; ``where`` is ``file:line``."""


class UnknownName(UsageError):
    """A name that no registry knows."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        super().__init__(f"unknown {kind} '{printable(name, 80)}'", where=where, hint=did_you_mean(name, known))


class OutputExists(UsageError):
    """The output path exists and ``--force`` was not given."""

    def __init__(self, path: object) -> None:
        super().__init__("exists already", where=str(path), hint="choose another --out, or pass --force to replace it")


class BadInput(EdgeattnError):
    """A file or array handed in is not what it must be."""

    exit_code = 3


class Unsupported(EdgeattnError):
    """The request is sound, but this engine or machine cannot do it."""

    exit_code = 4


class MissingPackage(Unsupported):
    """A Python package is absent; the hint names the extra that brings it."""

    def __init__(self, package: str, extra: str, *, why: str = "") -> None:
        super().__init__(
            f"the package '{package}' is not installed" + (f" ({why})" if why and why != "not installed" else ""),
            hint=f"pip install 'edgeattn[{extra}]'",
        )


_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "sklearn"), "export"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    "PIL": "images",
    **{engine: engine for engine in ("onnxruntime", "openvino", "nncf", "tensorrt", "cuda")},
    "tensorrt_rtx": "tensorrt-rtx",
}


def missing_package(error: ModuleNotFoundError) -> MissingPackage | None:
    """The extra that brings a module Python did not find; None when it is no dependency of ours."""
    name = (error.name or "").split(".")[0]
    return MissingPackage(name, _EXTRAS[name]) if name in _EXTRAS else None


class EngineFailed(Unsupported):
    """An engine refused a graph or died while building or running it."""


class OutOfResources(EdgeattnError):
    """Time, memory or disk ran out."""

    exit_code = 5


class IntegrityError(EdgeattnError):
    """Bytes differ from those that were signed off, or must not be trusted."""

    exit_code = 6
