"""Where a node of a rewritten graph comes from: the nodes it stands for, the rules between, and the user's module.

The rewrite stage writes both into the node's metadata (:mod:`edgeattn.rewrite`), exporters the module; what is here
reads them, so that later stages can speak in the names a user knows.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

RULE_KEY = "edgeattn.rule"
FROM_KEY = "edgeattn.from"
_SCOPES = "pkg.torch.onnx.name_scopes"
_NAMESPACE = "namespace"


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
    return Origin(_listed(told.get(FROM_KEY, own)), _listed(told.get(RULE_KEY, "")), _module(told))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(", ") if part)


def _module(told: dict[str, str]) -> str:
    """The last scope before the node's own, as both forms of PyTorch's exporter write them."""
    try:
        scopes = ast.literal_eval(told.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        scopes = []
    if isinstance(scopes, list) and len(scopes) > 1 and all(isinstance(s, str) for s in scopes):
        return str(scopes[-2])
    parts = [part.partition(":")[0].strip() for part in told.get(_NAMESPACE, "").split("/")]
    return parts[-2] if len(parts) > 1 else ""
