"""canonicalise_gelu: GELU in the order in which ONNX Runtime recognises it.

What: below opset 20, where there is no operator for it, GELU with an Erf is written ``(x · 0.5) · (erf(x / √2) + 1)``.

Why: ONNX Runtime fuses that order, and ``(x · (erf(x / √2) + 1)) · 0.5``, into one kernel. PyTorch's exporter writes
``x · (0.5 · (erf(x / √2) + 1))``, which it does not: five passes over the widest tensor of a transformer, twice the
time. OpenVINO fuses them all.

Before: Mul(x, Mul(0.5, Add(Erf(Div(x, 1.4142)), 1)))        After: Mul(Mul(x, 0.5), Add(Erf(Div(x, 1.4142)), 1))

Safe when: the graph, read as a polynomial in x and in the erf, has exactly GELU's coefficients, and nothing reads the
values in between. Multiplication is associative: the same up to rounding.
Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016, section 2; ONNX Runtime's GeluFusion.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeattn.program import Program
from edgeattn.rewrite._gelu import Gelu, gelu_at, sample
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._view import dims, made_by, scalar

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

OPERATOR_SINCE = 20


class CanonicaliseGelu(GraphRule):
    """The erf form in one order."""

    name = "canonicalise_gelu"
    exactness = ALLCLOSE
    anchors = ("Erf",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Erf."""
        found = gelu_at(node)
        if not isinstance(found, Gelu):
            return found
        if view.opset >= OPERATOR_SINCE:
            return miss(f"opset {view.opset} has an operator for it: fuse_gelu", found.last, 4)
        if _in_order(found, node):
            return miss("it is in that order", found.last, 5)
        if found.x.dtype is None:
            return miss("its type is not known", found.last, 4)
        return Match(found.last, found.nodes, {"x": found.x})

    def rewrite(self, match: Match, build: Build) -> None:
        """Div, Erf, Add; Mul; Mul."""
        x, old = match.parts["x"], match.anchor.outputs[0]
        shape = dims(x)
        divided = build.op("Div", x, build.scalar("gelu_root", math.sqrt(2), x), shape=shape)
        added = build.op("Add", build.op("Erf", divided, shape=shape), build.scalar("gelu_one", 1.0, x), shape=shape)
        half = build.op("Mul", x, build.scalar("gelu_half", 0.5, x), shape=shape)
        build.replace(old, build.op("Mul", half, added, shape=dims(old)))

    def examples(self) -> list[Program]:
        """PyTorch's order, multiplied out, and by the inverse root."""
        return as_programs(
            sample("d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)  y = Mul(x, h)", opset=18),
            sample("d = Div(x, root)  e = Erf(d)  h = Mul(x, half)  a = Mul(h, e)  y = Add(h, a)", opset=18),
            sample("d = Mul(inverse, x)  e = Erf(d)  a = Add(one, e)  h = Mul(x, half)  y = Mul(a, h)", opset=18),
        )

    def near_misses(self) -> list[Program]:
        """Both orders that are recognised, an opset with the operator, another coefficient."""
        torch = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)  y = Mul(x, h)"
        return as_programs(
            sample("d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(x, half)  y = Mul(h, a)", opset=18),
            sample("d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(x, a)  y = Mul(h, half)", opset=18),
            sample(torch, opset=20),
            sample(torch.replace("root", "coarse"), opset=18),
        )

    def workload(self) -> Program:
        """BERT base's: 128 positions, 3,072 wide."""
        body = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)  y = Mul(x, h)"
        return Program({"main": sample(body, opset=18, head="(float[1,128,3072] x) => (float[1,128,3072] y)")})


def _in_order(found: Gelu, erf: ir.Node) -> bool:
    """Whether a GELU is in one of the two orders that are recognised."""
    added, divided = erf.outputs[0].consumers()[0], made_by(erf.inputs[0], "Div")
    if divided is None or divided.inputs[0] is not found.x or added.op_type != "Add" or len(found.nodes) != 5:
        return False
    factors = [made_by(v, "Mul") for v in found.last.inputs]
    halved = any(m is not None and _multiplies(m, found.x) for m in factors)
    wide = any(m is not None and found.x in m.inputs and added.outputs[0] in m.inputs for m in factors)
    return (halved and added.outputs[0] in found.last.inputs) or (wide and _has_half(found.last))


def _multiplies(mul: ir.Node, x: ir.Value) -> bool:
    return x in mul.inputs and _has_half(mul)


def _has_half(mul: ir.Node) -> bool:
    return any(scalar(v) == 0.5 for v in mul.inputs)


RULE = CanonicaliseGelu()
