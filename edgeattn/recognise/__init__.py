"""Finds attention in an ONNX graph, whoever wrote or exported it.

The search starts at what cannot be spelled differently. A *gate* ends in a sigmoid, soft or hard, and multiplies a
tensor; walking back from the sigmoid, every path must end in a reduction of that same tensor (or a constant). What
was reduced tells the mechanism: space -> channel attention (SE with one pool, CAM with two, ECA if a 1-D convolution
slides over the channels), channels -> spatial attention (SAM), rows and columns -> half of a coordinate attention, rows
or columns alone -> none that is known here. Only BAM's mask also reads the tensor itself, through convolutions that end
in one plane, and only BAM keeps the tensor beside its gating. Two gates on the same tensor make one mechanism: a
channel and a spatial one, one after the other or side by side, are a CBAM; both halves of a coordinate attention are
one. An *alignment* is a Softmax whose weights multiply a memory: additive if a Tanh feeds it, else multiplicative.
Because only the ends are matched, the MLP may be Linear or Conv, with or without bias, and the pools may be spelled in
any way.

Sources: SE (Hu 2018, section 3), ECA (Wang 2020, section 3.2), CBAM (Woo 2018, section 3), BAM (Park 2018, section 3),
coordinate attention (Hou 2021, section 3.2), the hard sigmoid (Howard 2019, section 5.2), Luong 2015 section 3,
Bahdanau 2015 appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex
from edgeattn.recognise._alignments import alignment
from edgeattn.recognise._attention import Attention
from edgeattn.recognise._gates import gate
from edgeattn.recognise._pairs import pair

if TYPE_CHECKING:
    import onnx

__all__ = ["Attention", "masks", "recognise"]


def recognise(model: onnx.ModelProto) -> list[Attention]:
    """Every attention structure of a graph, in graph order; a CBAM is listed once, with its halves as ``parts``."""
    index = GraphIndex(model)
    found = [alignment(index, node) if node.op_type == "Softmax" else gate(index, node) for node in index.nodes]
    return pair(index, [a for a in found if a])


def masks(found: Iterable[Attention], kind: str) -> list[str]:
    """The mask values of every mechanism of a kind (``sam`` also finds the spatial half of each CBAM)."""
    flat = [part for a in found for part in (a.parts or (a,))]
    return [a.gate for a in flat if a.kind == kind]
