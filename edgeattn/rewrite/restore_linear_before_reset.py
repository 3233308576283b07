"""restore_linear_before_reset: a GRU that PyTorch trained computes as PyTorch does.

What: a GRU in a graph that PyTorch exported, without ``linear_before_reset=1``, gets it.

Why: PyTorch applies the reset gate after the recurrent matrix, n = tanh(W x + b + r ⊙ (U h + b′)); ONNX's default
applies it before. Exporters have been released that forgot the attribute: the graph runs and is wrong by about 0.1.

Before: GRU(linear_before_reset=0)
After: GRU(linear_before_reset=1)

Safe when: the producer is PyTorch, both biases are there, and PyTorch's own outputs are in the reference: they are
what the result is judged by, since the source graph is what is wrong. Without them the rule only reports the node.
Source: torch.nn.GRU, equation of n_t; ONNX GRU operator; onnxscript issue 2852.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite._rule import Exactness, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class RestoreLinearBeforeReset(GraphRule):
    """The attribute that exporters forgot."""

    name = "restore_linear_before_reset"
    exactness = Exactness("conditional", 1e-5, 1e-4, condition="equals PyTorch's outputs, not the source graph's")
    anchors = ("GRU",)
    restores = True

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the GRU."""
        if attr(node, "linear_before_reset", 0):
            return miss("linear_before_reset is set already", node, 2)
        if not view.producer.lower().startswith("pytorch"):
            return miss(f"the graph was made by '{view.producer or 'an unnamed exporter'}', not by PyTorch", node, 1)
        if len(node.inputs) < 4 or node.inputs[3] is None:
            return miss("it has no biases, so it may not come from torch.nn.GRU", node, 1)
        return Match(node, (node,))

    def rewrite(self, match: Match, build: Build) -> None:
        """The same GRU with the attribute set."""
        old = match.anchor
        attributes = {name: a.value for name, a in old.attributes.items() if name != "linear_before_reset"}
        build.replace_node(old, linear_before_reset=1, **attributes)

    def examples(self) -> list[Program]:
        """A GRU as exporters wrote it."""
        return as_programs(_gru("hidden_size = 3", "pytorch"))

    def near_misses(self) -> list[Program]:
        """Set already; from elsewhere; without biases."""
        return as_programs(
            _gru("hidden_size = 3, linear_before_reset = 1", "pytorch"),
            _gru("hidden_size = 3", "tf2onnx"),
            _gru("hidden_size = 3", "pytorch", operands="x, weight, recurrence"),
        )


def _gru(attributes: str, producer: str, operands: str = "x, weight, recurrence, bias") -> onnx.ModelProto:
    return graph(
        f"(float[s,batch,4] x) => (float[s,1,batch,3] y) {{ y, y_h = GRU <{attributes}> ({operands}) }}",
        producer=producer,
        weight=(1, 9, 4),
        recurrence=(1, 9, 3),
        bias=(1, 18),
    )


RULE = RestoreLinearBeforeReset()
