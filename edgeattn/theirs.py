"""Code that users bring: found by its file or package, run so that its faults are told at their own lines.

A name is ``path/to/file.py:NAME`` or ``package.module:NAME``. Naming code is asking to run it; nothing here reads code
from data. What it prints goes to stderr, and how it fails is one line: the file and line in *their* code (the
innermost frame that belongs neither to edgeattn, nor to PyTorch, nor to Python), then what happened.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeattn.errors import BadInput, EdgeattnError, UsageError, did_you_mean, printable

_OURS = str(Path(__file__).parent)
_PYTHON = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})


def is_file(name: str) -> bool:
    """Whether a name means code in a file: ``x.py`` or ``x.py:NAME``."""
    return name.endswith(".py") or ".py:" in name


def split(name: str, default: str = "") -> tuple[str, str]:
    """``("x.py", "NAME")`` of ``x.py:NAME``; ``default`` stands for a name that is not given."""
    place, colon, attribute = name.rpartition(":")
    return (place, attribute) if colon else (name, default)


def load(name: str, kind: str, default: str = "", fits: Callable[[Any], bool] = callable) -> Any:
    """The object that a name means.

    Args:
        name: ``path/to/file.py:NAME`` or ``package.module:NAME``.
        kind: what it should be, in words for the user: ``factory``.
        default: the attribute when the name gives none.
        fits: what the nearest names are chosen by, should it not exist.

    Raises:
        UsageError: no such file, module or attribute, with the nearest. BadInput: its code fails.
    """
    place, attribute = split(name, default)
    with told(name):
        module = _from_file(Path(place), kind) if place.endswith(".py") else importlib.import_module(place)
    if not hasattr(module, attribute):
        known = [n for n, v in vars(module).items() if not n.startswith("_") and fits(v)]
        raise UsageError(
            f"has no {kind} '{printable(attribute, 80)}'", where=place, hint=did_you_mean(attribute, known)
        )
    return getattr(module, attribute)


def _from_file(path: Path, kind: str) -> ModuleType:
    if not path.is_file():
        raise UsageError("no such file", where=str(path), hint=f"give path/to/file.py:{kind}")
    spec = importlib.util.spec_from_file_location(f"edgeattn_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while they are made
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # what lies beside it can be imported, as when Python runs the file
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def told(where: str, doing: str = "while it was loaded") -> Iterator[None]:
    """Run a user's code: what it prints goes to stderr, how it fails is told in one line with its own file and line.

    Args:
        where: what to name where no line of theirs is known.
        doing: when it was, for a ``sys.exit`` that tells nothing else.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (EdgeattnError, MemoryError):
        raise
    except SyntaxError as error:
        place = shown(error.filename, error.lineno) if error.filename else where
        raise BadInput(f"syntax error: {error.msg}", where=place, hint="mend the file") from error
    except ModuleNotFoundError as error:
        hint = "run from its directory, or install it"
        raise UsageError(f"cannot be imported: {error}", where=where, hint=hint) from error
    except (Exception, SystemExit) as error:
        raise BadInput(f"{said(error)}{_exit_note(error, doing)}", where=line(error) or where) from error


def forward(module: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    """Call a module on tensors, by position; a failure names the line in its file and the inputs with their shapes.

    Args:
        inputs: tensors by the names their user knows, in the order they are passed.

    Raises:
        BadInput: it fails.
    """
    try:
        return module(*inputs.values())
    except (EdgeattnError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"{said(error)}; inputs were {described(inputs)}",
            where=line(error) or f"{type(module).__name__}.forward()",
            hint="declare the inputs it takes, or mend forward()",
        ) from error


def described(inputs: Mapping[str, Any]) -> str:
    """``x: float32[1, 5], mask: bool[1, 5]`` of tensors or arrays."""
    return ", ".join(f"{n}: {str(v.dtype).removeprefix('torch.')}{list(v.shape)}" for n, v in inputs.items())


def said(error: BaseException) -> str:
    """What an exception says, in one line; a RuntimeError's message stands for itself."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = " ".join(str(error).split())
    return text if type(error) is RuntimeError and text else f"raised {type(error).__name__}: {text}".rstrip(": ")


def _exit_note(error: BaseException, doing: str) -> str:
    return f" {doing}" if isinstance(error, SystemExit) else ""


def line(error: BaseException) -> str:
    """The user's line that raised: ``net.py:12 in forward``; empty where none of theirs is in the traceback."""
    return innermost(traceback.extract_tb(error.__traceback__))


def innermost(frames: Iterable[traceback.FrameSummary]) -> str:
    """The innermost of some frames, outermost first, that is the user's own; else of a package they installed."""
    for mine in (_is_theirs, _is_installed):
        found = [frame for frame in frames if mine(frame.filename)]
        if found:
            name = found[-1].name
            return shown(found[-1].filename, found[-1].lineno) + (f" in {name}" if not name.startswith("<") else "")
    return ""


def shown(file: str, number: int | None) -> str:
    """``net.py:12``, relative to the working directory where it lies below it."""
    path = Path(file)
    with contextlib.suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    return f"{path}:{number}"


def _is_theirs(file: str) -> bool:
    return not file.startswith(("<", _OURS, *_INSTALLED, *_PYTHON))


def _is_installed(file: str) -> bool:
    torch = [str(Path(root) / "torch") for root in _INSTALLED]
    return file.startswith(_INSTALLED) and not file.startswith((*torch, _OURS))
