"""Finds attention in an ONNX graph, whoever wrote or exported it.

The search starts at what cannot be spelled differently. A *gate* (``_gates``) ends in a function into 0 … 1
(``_squash``) and multiplies a tensor; walking back from it, every path must end in that same tensor (``_walk``), and
what has become of the tensor's axes on the way tells the mechanism (``_axes``): space reduced is channel attention (SE
with one pool, CAM with two, ECA if a convolution slides over the channels), channels reduced are spatial attention
(SAM), rows and columns are halves of a coordinate attention; BAM also reads the tensor itself and keeps it. Two gates
on the same tensor make one mechanism (``_pairs``).

An *alignment* (``_alignments``) is weights that sum to one (``_weights``) over a memory they multiply. Behind masks and
scales (``_masking``) lies what scores (``_scores``): a product of queries and keys, Luong's or, with heads, projected
values or a sequence that attends to itself, multi-head attention (``_heads``); a vector times a tanh is Bahdanau's, or
Luong's ``concat`` where query and key are joined first. Kinds and their older names: ``luong`` and ``mha`` are
``multiplicative``, ``bahdanau`` is ``additive``; ``Attention.family`` tells them.

Which operators stand between does not matter, nor where channels lie (``_channels``) or whether a size is known
(``_sizes``): the ways people write all this are a table in ``tests/spellings``, and ``docs/recognise.md`` says what of
it is found.

Sources: SE (Hu 2018, section 3), ECA (Wang 2020, section 3.2), CBAM (Woo 2018, section 3), BAM (Park 2018, section 3),
coordinate attention (Hou 2021, section 3.2), the hard sigmoid (Howard 2019, section 5.2), Luong 2015 section 3,
Bahdanau 2015 appendix A, Vaswani 2017 section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn.recognise._alignments import alignment
from edgeattn.recognise._attention import Attention
from edgeattn.recognise._gates import gate
from edgeattn.recognise._graph import Graph
from edgeattn.recognise._heads import operator
from edgeattn.recognise._modules import module_of
from edgeattn.recognise._pairs import pair
from edgeattn.recognise._squash import squashed

if TYPE_CHECKING:
    import onnx

__all__ = ["Attention", "masks", "recognise"]


def recognise(model: onnx.ModelProto) -> list[Attention]:
    """Every attention structure of a graph, in graph order; a CBAM is listed once, with its halves as ``parts``."""
    graph = Graph(model)
    found = [gate(graph, mask, function) for mask, function in squashed(graph).items()]
    found += [alignment(graph, node) or operator(graph, node) for node in graph.nodes]
    return [_placed(graph, a) for a in pair(graph, [a for a in found if a])]


def _placed(graph: Graph, found: Attention) -> Attention:
    """With the module it is, which holds all its nodes and its result."""
    return replace(found, module=module_of(graph, sorted({*found.nodes, found.result})))


def masks(found: Iterable[Attention], kind: str) -> list[str]:
    """The mask values of every mechanism of a kind (``sam`` also finds the spatial half of each CBAM)."""
    flat = [part for a in found for part in (a.parts or (a,))]
    return [a.gate for a in flat if a.kind == kind]
