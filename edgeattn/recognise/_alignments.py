"""Alignments: weights that sum to one over a memory's positions, named by how the positions are scored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn.origin import origin_of
from edgeattn.recognise._attention import Attention
from edgeattn.recognise._graph import Graph
from edgeattn.recognise._heads import multi_head
from edgeattn.recognise._masking import Path, peel, window
from edgeattn.recognise._scores import Dot, Energy, Linear, score
from edgeattn.recognise._sources import projection, root, state
from edgeattn.recognise._weights import Weighing, Weights, weighings, weights_of

if TYPE_CHECKING:
    import onnx


def alignment(graph: Graph, node: onnx.NodeProto) -> Attention | None:
    """The alignment whose weights end in ``node``; None where it weighs nothing by scores of it."""
    weights = weights_of(graph, node)
    if weights is None:
        return None
    path: Path | None = None
    for weighing in weighings(graph, weights):
        path = path or peel(graph, weights.scores)
        found = _named(graph, weights, weighing, path)
        if found is not None:
            return found
    return None


def _named(graph: Graph, weights: Weights, weighing: Weighing, path: Path) -> Attention | None:
    scored = score(graph, path, weights.axis, weighing.values)
    if scored is None:
        return None
    nodes = [*weights.nodes, *path.nodes, *scored.nodes]
    reach = window(graph, path.hiding)
    found = Attention(
        kind="luong",
        nodes=frozenset(n.output[0] for n in nodes),
        gate=weights.name,
        features=weighing.values,
        result=weighing.result,
        local=reach is not None or _is_curved(graph, weighing, weights.name),
        window=reach,
        mask=tuple(dict.fromkeys([*path.masks, *_of_weights(graph, weighing)])),
    )
    if isinstance(scored, Energy):
        return _additive(graph, found, scored)
    if isinstance(scored, Linear):
        own = scored.source == root(graph, weighing.values)
        return replace(found, kind="pooling", score="linear", attends="self") if own else None
    heads = multi_head(graph, found, scored, path)
    return heads or _luong(graph, found, scored, path, weighing)


def _is_curved(graph: Graph, weighing: Weighing, weights: str) -> bool:
    """Whether the weights are multiplied by a computed exponential, a Gaussian around a position."""
    factors = [n for m in weighing.masks if m.op_type == "Mul" for n in m.input if n != weights]
    return any(n.op_type == "Exp" for f in factors for n in graph.back(f, 3))


def _of_weights(graph: Graph, weighing: Weighing) -> list[str]:
    """Masks that change the weights instead of the scores."""
    return ["weights where 0" for n in weighing.masks if n.op_type == "Where"]


def _additive(graph: Graph, found: Attention, energy: Energy) -> Attention | None:
    """Bahdanau's, Luong's ``concat`` if query and key are joined before their layer, or pooling without a query."""
    memory = root(graph, found.features)
    if energy.joined:
        asking = [n for n in energy.joined if n != memory]
        if len(asking) < len(energy.joined):
            return _asked(graph, replace(found, kind="luong", score="concat", keys="inside"), asking)
    keys: list[str] = []
    others: list[str] = []
    for term in energy.terms:
        behind = projection(graph, term)
        ours = root(graph, term) == memory or (behind is not None and behind.source == memory)
        (keys if ours else others).append(term)
    if keys and not others:
        return replace(found, kind="pooling", score="additive", attends="self")
    if keys:
        where = "raw" if root(graph, keys[0]) == memory else "inside"
    else:
        handed = [t for t in others if projection(graph, t) is None] or [t for t in others if _is_wide(graph, t)]
        where = "handed" if any(root(graph, t) in graph.inputs for t in handed[:1]) else "inside"
        others = [t for t in others if t not in handed[:1]]
    if _was_joined(graph, found):
        return _asked(graph, replace(found, kind="luong", score="concat", keys=where), others)
    return _asked(graph, replace(found, kind="bahdanau", score="additive", keys=where), others)


def _was_joined(graph: Graph, found: Attention) -> bool:
    """Whether a rewrite has split the layer over query and key: what it says about itself outlives the spelling."""
    return any("split_concat_score" in origin_of(graph.producer[name]).rules for name in found.nodes)


def _asked(graph: Graph, found: Attention, asking: list[str]) -> Attention:
    if not asking:
        return found
    query = asking[0]
    return replace(found, query=query, state=state(graph, query, found.result))


def _is_wide(graph: Graph, name: str) -> bool:
    """Not broadcast over the memory's positions."""
    return 1 not in (graph.dims(name) or (1,))


def _luong(graph: Graph, found: Attention, dot: Dot, path: Path, weighing: Weighing) -> Attention:
    """Luong's score by what lies between query and memory; local-p by what else multiplies the weights."""
    memory, key = root(graph, weighing.values), projection(graph, dot.key)
    raw = root(graph, dot.key) == memory
    keys = "raw" if raw or dot.bilinear else "inside" if key is not None else "handed"
    mapped = projection(graph, dot.query) is not None
    general = dot.bilinear or not raw or mapped
    return _asked(
        graph,
        replace(
            found,
            score="general" if general else "dot",
            keys=keys,
            scale="scores" if path.scaled else "",
        ),
        [dot.query],
    )
