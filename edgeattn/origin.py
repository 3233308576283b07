"""Where a node of a rewritten graph comes from: the nodes it stands for, the rules between, and the user's module.

The rewrite stage writes both into the node's metadata (:mod:`edgeattn.rewrite`), exporters the module; what is here
reads them, so that later stages can speak in the names a user knows.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

RULE_KEY = "edgeattn.rule"
FROM_KEY = "edgeattn.from"
_SCOPES, _NAMESPACE = "pkg.torch.onnx.name_scopes", "namespace"


@dataclass(frozen=True)
class Origin:
    """Where a node comes from.

    Attributes:
        nodes: names of the nodes of the source graph that it stands for; ``step:NAME`` for those of another graph.
        rules: the rules that made it, in order; empty for a node of the source.
        module: the innermost PyTorch module, ``layer1.0.attention``; empty where the exporter did not say.
    """

    nodes: tuple[str, ...]
    rules: tuple[str, ...]
    module: str


def origin_of(node: onnx.NodeProto) -> Origin:
    """The origin of a node, its own name where no rule made it."""
    told = {pair.key: pair.value for pair in node.metadata_props}
    own = node.name or next(iter(node.output), "") or node.op_type
    return Origin(_listed(told.get(FROM_KEY, own)), _listed(told.get(RULE_KEY, "")), module_of(node))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(", ") if part)


def module_of(node: onnx.NodeProto) -> str:
    """The PyTorch module that a node came from, ``blocks.0.attention``; empty where nothing tells it.

    The exporter of PyTorch 2 writes it into the metadata; the one before it named nodes ``/blocks/blocks.0/conv/Conv``.
    """
    metadata = {p.key: p.value for p in node.metadata_props}
    scopes: Sequence[str] = []
    if _SCOPES in metadata:
        with contextlib.suppress(ValueError, SyntaxError):
            scopes = [str(scope) for scope in ast.literal_eval(metadata[_SCOPES])]
    elif _NAMESPACE in metadata:
        scopes = [part.split(":")[0].strip() for part in metadata[_NAMESPACE].split("/")]
    if len(scopes) > 1:
        return "" if scopes[-2].startswith("_empty_") else scopes[-2]  # what PyTorch writes where it does not know
    return _from_path(node.name) if node.name.startswith("/") else ""


def _from_path(name: str) -> str:
    """``/layer1/layer1.0/conv/Conv`` lies in ``layer1.0.conv``: a part that continues the one before repeats it."""
    found: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return ".".join(found)
