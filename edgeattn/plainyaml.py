"""YAML text to plain values: YAML 1.2's core types, hard limits, and the line of every key.

``no`` and ``off`` are text, ``1e-3`` is a number, dates do not exist. Tags, anchors, aliases, duplicate keys, second
documents and deep nesting are refused while nothing has been built yet, so the cost is bounded by the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import yaml

from edgeattn.errors import RecipeError

MAX_DEPTH = 12
Places: TypeAlias = Mapping[tuple[str, ...], str]


def decode(data: bytes, where: str) -> str:
    """UTF-8 text without a byte-order mark.

    Raises:
        RecipeError: with ``where:line``.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise RecipeError("starts with a byte-order mark", where=f"{where}:1", hint="save it as UTF-8 without BOM")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise RecipeError(
            f"is not UTF-8 (byte 0x{data[e.start]:02x})", where=f"{where}:{line}", hint="save it as UTF-8"
        ) from None


def read(text: str, where: str) -> tuple[Any, dict[tuple[str, ...], str]]:
    """The value of one YAML document, and ``where:line`` of every key and item in it.

    Returns:
        ``({"latency": {"pairs": 5}}, {("latency", "pairs"): "r.yaml:3", …})``; value None for empty text.

    Raises:
        RecipeError: not YAML, or YAML beyond the limits above; with ``where:line`` and what to do.
    """
    places: dict[tuple[str, ...], str] = {}
    try:
        _refuse_the_unneeded(text, where)
        node = yaml.compose(text, _Loader)
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise RecipeError(
            f"has a character YAML does not allow (U+{ord(text[e.position]):04X})",
            where=f"{where}:{line}",
            hint="remove it, or write it as an escape in double quotes",
        ) from None
    except yaml.MarkedYAMLError as e:
        raise _not_yaml(e, where) from None
    return (None if node is None else _value(node, where, (), places)), places


def write(values: Mapping[str, Any]) -> str:
    """YAML text that ``read`` turns back into equal values."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000))


class _Loader(yaml.SafeLoader):
    """The core types, nothing else; only its scanner, parser and composer are used."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the shape PyYAML wants


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that ``_Loader`` would take for another type."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the shape PyYAML wants

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out twice: aliases are not read back."""
        return True


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]{1,30}", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,5})?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _not_yaml(error: yaml.MarkedYAMLError, where: str) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "cannot be parsed"
    tab = "\\t" in problem
    return RecipeError(
        f"is not YAML: {problem}",
        where=f"{where}:{mark.line + 1}" if mark else where,
        hint="indent with spaces, not tabs" if tab else "check indentation, quotes and the ': ' after each key",
    )


def _refuse_the_unneeded(text: str, where: str) -> None:
    depth = documents = 0
    for event in yaml.parse(text, _Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        at = f"{where}:{line}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise RecipeError("holds a second document", where=at, hint="keep one recipe a file; remove '---'")
        if depth > MAX_DEPTH:
            raise RecipeError(f"nests deeper than {MAX_DEPTH} levels", where=at, hint="a recipe needs three")
        if getattr(event, "anchor", None):
            raise RecipeError("uses an anchor or alias (& or *)", where=at, hint="write the value out")
        if tag := getattr(event, "tag", None):
            raise RecipeError(f"uses the tag '{tag}'", where=at, hint="recipes are plain data; remove the tag")


def _value(node: Any, where: str, loc: tuple[str, ...], places: dict[tuple[str, ...], str]) -> Any:
    places.setdefault(loc, _at(node, where))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, where, (*loc, str(i)), places) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = _at(key_node, where)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError("has a key that is not a plain word", where=at, hint="write 'key: value'")
        key = str(key_node.value)
        if key in values:
            first = places[(*loc, key)].rpartition(":")[2]
            raise RecipeError(f"key '{key}' stands twice (first in line {first})", where=at, hint="remove one")
        places[(*loc, key)] = at
        values[key] = _value(value_node, where, (*loc, key), places)
    return values


def _at(node: Any, where: str) -> str:
    return f"{where}:{node.start_mark.line + 1}"


def _scalar(node: Any) -> str | int | float | bool | None:
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if kind == "float" else text
