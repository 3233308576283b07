"""split_gate_product: each reader of a gated map gets a product of its own.

What: ``x · gate`` that several nodes read, as a CBAM's spatial half does three times, is computed once for each reader.

Why: an engine that fuses a Mul into the node behind it can only do so where nothing else wants the result; then each
reader takes x and the few numbers of the gate, and the gated map is never written to memory. An engine that fuses none
of them multiplies in vain. So it is measured.

Before: x · gate ─┬ ReduceMax        After: x · gate ─ ReduceMax
                  ├ ReduceMean              gate · x ─ ReduceMean
                  └ Mul                     x · gate ─ Mul

The operands are swapped in every second copy, so that engines that join equal nodes leave two of them.

Safe when: one operand is a gate (N, C, 1, 1), the other a feature map, and the product is no result of the graph.
Bit-exact.
Source: CBAM, Woo et al. 2018, figure 1: the refined map is read by both poolings and by the last product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import dims, is_gate

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class SplitGateProduct(GraphRule):
    """One product a reader."""

    name = "split_gate_product"
    exactness = BIT_EXACT
    measured = True
    anchors = ("Mul",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the product."""
        product = node.outputs[0]
        gates = [is_gate(dims(v)) for v in node.inputs]
        if len(dims(product) or ()) != 4 or gates.count(True) != 1:
            return miss("it does not multiply a map by one gate (N, C, 1, 1)", node, 0)
        if product.is_graph_output():
            return miss("it is a result of the graph", node, 1)
        if len(product.uses()) < 2:
            return miss("it has one reader", node, 2)
        if any(reader.graph is not node.graph for reader in product.consumers()):
            return miss("a branch or body reads it", node, 2)
        return Match(node, (node,), {})

    def rewrite(self, match: Match, build: Build) -> None:
        """A product for each use; the first takes the name."""
        node = match.anchor
        old = node.outputs[0]
        for number, use in enumerate(list(old.uses())[1:]):
            operands = node.inputs if number % 2 else node.inputs[::-1]
            use.node.replace_input_with(use.idx, build.like(node, *operands, shape=dims(old)))
        build.replace(old, build.like(node, *node.inputs, shape=dims(old)))

    def examples(self) -> list[Program]:
        """CBAM's refined map with its three readers, the gate on either side."""
        return as_programs(
            _refined("batch", 4, "h", "w", "Mul(x, gate)"), _refined("batch", 4, "h", "w", "Mul(gate, x)")
        )

    def near_misses(self) -> list[Program]:
        """One reader; the result of the graph; two maps."""
        head = "(float[batch,4,h,w] x, float[batch,4,1,1] gate) => (float[batch,4,h,w] y"
        return as_programs(
            graph(f"{head}) {{ z = Mul(x, gate)  y = Relu(z) }}"),
            graph(f"{head}, float[batch,4,h,w] z) {{ z = Mul(x, gate)  a = Neg(z)  y = Mul(a, z) }}"),
            graph(f"{head}) {{ z = Mul(x, x)  a = Neg(z)  b = Mul(a, gate)  y = Add(b, z) }}"),
        )

    def workload(self) -> Program:
        """The middle of the CBAM after ResNet-50's first stage."""
        return as_programs(_refined(1, 256, 56, 56, "Mul(x, gate)"))[0]


def _refined(batch: int | str, channels: int, height: int | str, width: int | str, product: str) -> onnx.ModelProto:
    size = f"{batch},{channels},{height},{width}"
    return graph(
        f"""(float[{size}] x, float[{batch},{channels},1,1] gate) => (float[{size}] y) {{
            z = {product}
            peak = ReduceMax(z, axes)
            mean = ReduceMean(z, axes)
            both = Concat <axis = 1> (peak, mean)
            logit = Conv <pads = [3, 3, 3, 3]> (both, weight)
            mask = Sigmoid(logit)
            y = Mul(z, mask) }}""",
        axes=i64(1),
        weight=(1, 2, 7, 7),
    )


RULE = SplitGateProduct()
