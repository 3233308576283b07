"""fuse_gelu: GELU spelled out becomes Gelu.

What: ``x/2 · (1 + erf(x/√2))`` and its approximation ``x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))``, with factors and
operands in any order, multiplied out or not, become one Gelu.

Why: five to nine passes over the widest tensor of a transformer become one; engines that know the operator fuse it into
the matrix product before it.

Before: Mul(Mul(x, 0.5), Add(1, Erf(Div(x, 1.4142))))        After: Gelu(x)

Safe when: the graph, read as a polynomial in x and in the erf or tanh, has exactly GELU's coefficients (to 1e-6, in
half precision to 1e-3); nothing reads the values in between; opset 20 or later. The same up to rounding.
Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016, section 2; ONNX Gelu-20.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.program import Program
from edgeattn.rewrite._gelu import Gelu, gelu_at, sample
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._view import dims

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

SINCE = 20


class FuseGelu(GraphRule):
    """The erf or tanh form as one operator."""

    name = "fuse_gelu"
    exactness = ALLCLOSE
    anchors = ("Erf", "Tanh")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Erf or Tanh."""
        found = gelu_at(node)
        if not isinstance(found, Gelu):
            return found
        if view.opset < SINCE:
            reason = f"Gelu exists from opset {SINCE} on, this graph has {view.opset}: export it with --opset {SINCE}"
            return miss(reason, found.last, 5)
        return Match(found.last, found.nodes, {"x": found.x, "approximate": found.approximate})

    def rewrite(self, match: Match, build: Build) -> None:
        """One Gelu."""
        x, old = match.parts["x"], match.anchor.outputs[0]
        build.replace(old, build.op("Gelu", x, shape=dims(old), approximate=match.parts["approximate"]))

    def examples(self) -> list[Program]:
        """PyTorch's spelling, three others of the erf form, and three of the tanh form."""
        return as_programs(
            sample("d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)  y = Mul(x, h)"),
            sample("d = Mul(x, inverse)  e = Erf(d)  a = Add(one, e)  h = Mul(x, a)  y = Mul(h, half)"),
            sample("d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(x, half)  y = Mul(h, a)"),
            sample("d = Div(x, root)  e = Erf(d)  h = Mul(x, half)  a = Mul(h, e)  y = Add(h, a)"),
            sample(
                """p = Pow(x, three)  q = Mul(c, p)  r = Add(x, q)  s = Mul(k, r)  t = Tanh(s)
                u = Add(t, one)  h = Mul(half, u)  y = Mul(x, h)"""
            ),
            sample(
                """p = Mul(x, c)  q = Mul(p, x)  r = Add(q, one)  v = Mul(x, k)  s = Mul(v, r)  t = Tanh(s)
                u = Add(one, t)  h = Mul(x, half)  y = Mul(h, u)"""
            ),
            sample(
                """w = Mul(x, x)  p = Mul(x, w)  q = Mul(c, p)  r = Add(x, q)  s = Mul(r, k)  t = Tanh(s)
                u = Add(t, one)  h = Mul(x, u)  y = Div(h, two)"""
            ),
        )

    def near_misses(self) -> list[Program]:
        """Opset 18, a coarse constant, a value read elsewhere, half of a GELU of something else."""
        torch = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)"
        return as_programs(
            sample(f"{torch}  y = Mul(x, h)", opset=18),
            sample(f"{torch.replace('root', 'coarse')}  y = Mul(x, h)"),
            sample(f"{torch}  y = Mul(x, h)", outputs=", float[batch,6] a"),
            sample("d = Div(x, root)  e = Erf(d)  a = Add(e, two)  h = Mul(half, a)  y = Mul(x, h)"),
        )

    def workload(self) -> Program:
        """BERT base's: 128 positions, 3,072 wide."""
        body = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  h = Mul(half, a)  y = Mul(x, h)"
        return Program({"main": sample(body, head="(float[1,128,3072] x) => (float[1,128,3072] y)")})


RULE = FuseGelu()
