"""What pydantic found wrong, said as edgeattn says it: where, what, expected and got, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from edgeattn.errors import RecipeError, did_you_mean, printable


def first(
    errors: Sequence[Any],
    at: Callable[..., str],
    keys_at: Callable[[tuple[str, ...]], list[str] | None],
    nearest: Callable[[tuple[str, ...], list[str]], str],
) -> RecipeError:
    """The complaint to mend first: the one that stands first in the file, a missing key last (it may be misspelt).

    Args:
        errors: ``ValidationError.errors()``.
        at: ``at(*loc)`` gives ``file:line`` of a key.
        keys_at: ``keys_at(loc)`` gives the keys allowed inside ``loc``.
        nearest: ``nearest(loc, keys)`` says what to write in place of an unknown key.
    """
    said = [((error["type"] == "missing"), _explain(error, at, keys_at, nearest)) for error in errors]
    return min(said, key=lambda pair: (pair[0], _line(pair[1].where)))[1]


def _line(where: str) -> int:
    tail = where.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "keys and values",
    "model_type": "keys and values",
    "finite_number": "a finite number",
    "string_too_short": "a name",
}


def _explain(
    error: Any,
    at: Callable[..., str],
    keys_at: Callable[[tuple[str, ...]], list[str] | None],
    nearest: Callable[[tuple[str, ...], list[str]], str],
) -> RecipeError:
    loc = tuple(str(part) for part in error["loc"])
    key, where, context = ".".join(loc), at(*loc), error.get("ctx", {})
    got = got_text(error["input"])
    match error["type"]:
        case "missing":
            return RecipeError(f"lacks the key '{key}'", where=where, hint=f"add '{key}: …'")
        case "extra_forbidden":
            hint = nearest(loc, keys_at(loc[:-1]) or [])
            return RecipeError(f"unknown key '{key}'", where=where, hint=hint)
        case "literal_error":
            expected = str(context["expected"]).replace("'", "")
            known = re.split(r", | or ", expected)
            return RecipeError(f"'{key}' must be {expected}, got {got}", where=where, hint=_near(error["input"], known))
        case "value_error":
            return RecipeError(f"'{key}': {context['error']}, got {got}", where=where, hint=f"correct '{key}'")
        case kind if kind in _EXPECTED:
            hint = f"correct '{key}'"
            return RecipeError(f"'{key}' must be {_EXPECTED[kind]}, got {got}", where=where, hint=hint)
    rule = str(error["msg"]).removeprefix("Input should be ").lower()
    return RecipeError(f"'{key}' must be {rule}, got {got}", where=where, hint=f"correct '{key}'")


def _near(value: object, known: list[str]) -> str:
    return did_you_mean(value, known) if isinstance(value, str) else f"choose one of {', '.join(known)}"


def got_text(value: object) -> str:
    """What was found, short and safe to print."""
    if isinstance(value, dict | list):
        return "keys and values" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return f"'{printable(value, 40)}'" if isinstance(value, str) else str(value)
