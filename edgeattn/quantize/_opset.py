"""Raising a graph's opset for an operator that takes more there, where nothing in it means something else there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn import graphs
from edgeattn.standard import all_nodes

if TYPE_CHECKING:
    import onnx

_MEANT_OTHERWISE = {"DFT", "GridSample", "GroupNormalization"}
"""Operators whose definition changed between opset 18 and 22; every other change there added types and options."""


def reachable(model: onnx.ModelProto, wanted: int) -> int:
    """``wanted`` (18 to 22) where the graph means the same in it, else its own."""
    own = graphs.opset_of(model)
    meant = any(n.op_type in _MEANT_OTHERWISE for n in all_nodes(model.graph))
    return wanted if 18 <= own < wanted and not meant else own


def raise_to(model: onnx.ModelProto, opset: int) -> None:
    """Write another opset into a graph, and the IR version that goes with it."""
    from onnx import helper

    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version != opset:
            entry.version = opset
            model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([entry]))
