"""The PyTorch module a structure is, where the exporter left names."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING

from edgeattn.recognise._graph import Graph

if TYPE_CHECKING:
    import onnx


def module_of(graph: Graph, values: Iterable[str]) -> str:
    """The innermost module that the nodes that make these values share, ``layer3.0.cbam``; empty if none is told."""
    paths = [p for v in values if (node := graph.producer.get(v)) is not None and (p := _path(node)) is not None]
    if not paths:
        return ""
    shared = [names[0] for names in takewhile(lambda n: len(set(n)) == 1, zip(*paths, strict=False))]
    return ".".join(shared)


def _path(node: onnx.NodeProto) -> list[str] | None:
    """A node's module, name by name: from the dynamo exporter's scopes, or from ``/layer1/layer1.0/conv/Conv``."""
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), None)
    if scopes is not None:
        try:
            told = ast.literal_eval(scopes)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        names = [n for n in told[:-1] if isinstance(n, str)] if isinstance(told, list) else []
        return names[-1].split(".") if names and names[-1] else []
    if "/" not in node.name:
        return None
    found: list[str] = []
    for part in node.name.strip("/").split("/")[:-1]:
        inside = part.split(".")
        # a member of a Sequential repeats its parent's name: /layer1/layer1.0
        found += inside[1:] if found and inside[0] == found[-1] else inside
    return found
