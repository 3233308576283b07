"""hoist_values: the memory is projected for its reader once, not the context in every step.

What: where a context α·H of a handed-over memory is multiplied with constant weights, alone or joined with others,
``W[c; h]`` becomes ``α·(H·W₁) + W₂·h``. The product ``H·W₁`` does not change from step to step: the encoder computes it
once and hands it over as ``memory_values``; several such products of one context are one, and a Split. The raw memory
goes where nobody reads it any more. What drops the context's axis of length 1 does so once, before the Split.

Why: W₁ costs D² multiply-adds a step and, at batch 1, reading all of its weights; α·V costs what α·H did. A step of
RNNsearch (GRU of 512, 30 positions, ONNX Runtime) with hoisted keys took 0.86 ms, with hoisted values too 0.34.

Before: step: MatMul(Concat(MatMul(α, H), h), W)
After: encoder: memory_values = MatMul(H, W₁); step: Add(MatMul(α, memory_values), MatMul(h, W₂))

    α ─ MatMul ─┐                         α ─ MatMul ─────┐
    H ──┘       Concat ─ MatMul W  ⇒      H·W₁ ──┘        Add
    h ──────────┘                         h ─ MatMul W₂ ──┘

Safe when: the memory is handed over once, W is constant, and the context reaches the product through operators that
only lay it out. It pays where a program takes many steps over few positions, T > S: it stays only where a whole
sequence, encoder included, was measured to be faster, and is not tried where S is known to be above 7·T.
Source: associativity; Luong et al. 2015, equation 5; Bahdanau et al. 2015, appendix A.2.2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Program, Stop, Wiring
from edgeattn.rewrite import _apply, _axes
from edgeattn.rewrite._leaves import Leaf, laid, leaves_of
from edgeattn.rewrite._loop import hoisted
from edgeattn.rewrite._product import Product, product
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, Outcome, ProgramRule, View, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import axes, broadcast, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

ROWS_OF_A_VECTOR = 7  # how many rows of a matrix product take as long as a matrix-vector product (measured)


class _Associate(GraphRule):
    """The rule on the step; ``once`` names the inputs that are handed over before the loop, ``steps`` bounds it."""

    name = "hoist_values"
    exactness = ALLCLOSE
    anchors = ("MatMul", "Gemm")

    def __init__(self, once: frozenset[str], steps: int) -> None:
        self._once, self._steps = once, steps

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the product that reads the context."""
        if const(node.inputs[1]) is None:
            return None
        found = product(node)
        if not isinstance(found, Product) or found.form != "right" or found.flat or found.channel != found.perm[-1]:
            return None
        leaves = leaves_of(found.source)
        for leaf in leaves:
            context = made_by(leaf.value, "MatMul")
            memory = context.inputs[1] if context is not None else None
            if context is None or memory is None or const(memory) is not None or leaves[-1].rows.stop != found.depth:
                continue
            if not memory.is_graph_input() or (memory.name or "") not in self._once:
                return miss(f"'{memory.name}', of which it weighs the rows, is not handed over once", context, 2)
            if context.inputs[0] is None or len(dims(memory) or ()) != 3 or len(dims(leaf.value) or ()) != 3:
                return miss(f"the memory has the shape {dims(memory)}; expected rank 3", context, 2)
            positions = (dims(memory) or (None, None))[1]
            if isinstance(positions, int) and positions > ROWS_OF_A_VECTOR * self._steps:
                reason = f"{positions} positions once are more than {self._steps} steps pay for"
                return miss(reason, context, 3)
            parts = {"product": found, "leaves": leaves, "leaf": leaf, "context": context, "memory": memory}
            return Match(node, (context, *leaf.chain, *found.nodes, node), parts | {"opset": view.opset})
        return None

    def rewrite(self, match: Match, build: Build) -> None:
        """Weights times projected memory, and the product of what was joined with the context."""
        found: Product = match.parts["product"]
        leaf: Leaf = match.parts["leaf"]
        memory, context = match.parts["memory"], match.parts["context"]
        weight = match.anchor.inputs[1]
        stem = weight.name if weight is not None else "weight"
        shape = (*(dims(memory) or ())[:2], found.width)
        values = build.op("MatMul", memory, build.const(f"{stem}_values", found.matrix[leaf.rows]), shape=shape)
        row = (*(dims(leaf.value) or ())[:-1], found.width)
        total = build.op("MatMul", context.inputs[0], values, shape=row, source=context)
        total = _axes.transpose(build, laid(build, total, leaf), found.perm)
        rest = [other for other in match.parts["leaves"] if other is not leaf]
        bias = found.bias
        if rest:
            parts = [laid(build, other.value, other) for other in rest]
            rows = np.concatenate([found.matrix[other.rows] for other in rest])
            lead = (dims(parts[0]) or ())[:-1]
            wide = (*lead, len(rows))
            joined = parts[0] if len(parts) == 1 else build.op("Concat", *parts, shape=wide, axis=len(lead))
            joined = _axes.transpose(build, joined, found.perm)
            other_shape = (*(dims(joined) or ())[:-1], found.width)
            others = build.const(f"{stem}_others", rows)
            if bias is not None and len(other_shape) == 2:
                added, bias = build.const(f"{stem}_bias", bias), None
                product_ = build.op("Gemm", joined, others, added, shape=other_shape)
            else:
                product_ = build.op("MatMul", joined, others, shape=other_shape)
            total = build.op("Add", total, product_, shape=broadcast([dims(total), other_shape]))
        if bias is not None:
            total = build.op("Add", total, build.const(f"{stem}_bias", bias), shape=dims(total))
        build.replace(match.anchor.outputs[0], total)

    def examples(self) -> list[Program]:
        """Those of the program rule."""
        return []

    def near_misses(self) -> list[Program]:
        """Those of the program rule."""
        return []


class _Together(GraphRule):
    """Projected memories that the same weights read, side by side: ``α·V₁, α·V₂ = Split(α·[V₁ V₂])``."""

    name = "hoist_values"
    exactness = ALLCLOSE
    anchors = ("MatMul",)
    opsets = (13, 26)  # Split with its sizes as an input

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the first of them, which speaks for all."""
        own, weights = _projected(node), node.inputs[0]
        if own is None or weights is None:
            return None
        readers = [reader for reader in dict.fromkeys(weights.consumers()) if reader.graph is node.graph]
        found = [(r, values) for r in readers if r.inputs[0] is weights and (values := _projected(r)) is not None]
        found = [(reader, values) for reader, values in found if values.inputs[0] is own.inputs[0]]
        places = view.places()
        if len(found) < 2 or any(reader not in places for reader, _ in found):
            return None
        found.sort(key=lambda pair: places[pair[0]])
        if found[0][0] is not node:
            return None
        nodes = tuple(n for pair in found for n in reversed(pair))
        squeezes = [_squeezed(reader) for reader, _ in found]
        alike = {axes(squeeze) if squeeze is not None else None for squeeze in squeezes}
        return Match(node, nodes, {"found": found, "squeezes": squeezes if alike == {(1,)} else []})

    def rewrite(self, match: Match, build: Build) -> None:
        """One projection of the memory, one weighted sum, one Split."""
        found: list[tuple[ir.Node, ir.Node]] = match.parts["found"]
        memory = found[0][1].inputs[0]
        assert memory is not None
        matrices = [matrix for _, values in found if (matrix := const(values.inputs[1])) is not None]
        widths = [matrix.shape[1] for matrix in matrices]
        weight = build.const("memory_values_merged", np.concatenate(matrices, 1))
        values = build.op("MatMul", memory, weight, shape=(*(dims(memory) or ())[:2], sum(widths)))
        lead = (dims(found[0][0].outputs[0]) or ())[:-1]
        total = build.op("MatMul", found[0][0].inputs[0], values, shape=(*lead, sum(widths)))
        squeezes: list[ir.Node] = match.parts["squeezes"]
        if squeezes:
            lead = (dims(squeezes[0].outputs[0]) or ())[:-1]
            total = build.op("Squeeze", total, squeezes[0].inputs[1], shape=(*lead, sum(widths)))
        sizes = build.const("memory_values_widths", np.array(widths, np.int64))
        shapes = [(*lead, width) for width in widths]
        parts = build.ops("Split", total, sizes, shapes=shapes, axis=-1)
        for node, part in zip(squeezes or [reader for reader, _ in found], parts, strict=True):
            build.replace(node.outputs[0], part)

    def examples(self) -> list[Program]:
        """Those of the program rule."""
        return []

    def near_misses(self) -> list[Program]:
        """Those of the program rule."""
        return []


def _squeezed(reader: ir.Node) -> ir.Node | None:
    """The Squeeze that alone reads a weighted sum."""
    after = reader.outputs[0].consumers()[0] if used_once(reader.outputs[0]) else None
    return after if after is not None and after.op_type == "Squeeze" and len(after.inputs) == 2 else None


def _projected(reader: ir.Node) -> ir.Node | None:
    """What makes the projected memory that a weighted sum reads, and nobody else does."""
    values = made_by(reader.inputs[1], "MatMul") if reader.op_type == "MatMul" else None
    if values is None or const(values.inputs[1]) is None or not used_once(values.outputs[0]):
        return None
    return values


class HoistValues(ProgramRule):
    """The context's projection, moved to the memory and out of the step."""

    name = "hoist_values"
    exactness = ALLCLOSE
    measured = True

    def apply(self, program: Program) -> Outcome:
        """Associate the products in the step, then move what no longer changes; both or neither."""
        wiring = program.wiring
        if wiring is None:
            return Outcome(program, 0, (Miss("a single graph has no loop to hoist from", "(program)", 0),))
        name = wiring.loop
        once = {e.split(".", 1)[1] for e in wiring.feeds if e.startswith(f"{name}.") and e not in wiring.state}
        rule = _Associate(frozenset(once), wiring.stop.max_steps)
        outcome = _apply.apply(rule, Program({name: program.graphs[name]}))
        if outcome.count == 0:
            misses = outcome.misses or (Miss("no constant product reads a context", "(step)", 0, graph=name),)
            return Outcome(program, 0, misses)
        together = _apply.apply(_Together(), outcome.program)  # where several products read one context
        associated = replace(program, graphs={**program.graphs, name: together.program.graphs[name]})
        moved, _ = hoisted(associated, wiring, "values")
        return Outcome(moved, outcome.count, outcome.misses)

    def examples(self) -> list[Program]:
        """Luong's [c; h]; the context alone, with a bias; two products that read one context."""
        return [
            _program("j = Concat <axis = 1> (c, h_out)  logits = MatMul(j, w)", w=(8, 5)),
            _program("logits = Gemm(c, w, b)", w=(4, 5), b=(5,)),
            _program(
                "j = Concat <axis = 1> (h, c)  p = Gemm <transB = 1> (j, w)  r = MatMul(c, v)  logits = Add(p, r)",
                w=(5, 8),
                v=(4, 5),
            ),
        ]

    def near_misses(self) -> list[Program]:
        """A memory that is fed by the caller; fed weights; far more positions than steps; a single graph."""
        plain = "logits = MatMul(c, w)"
        fed = _program(plain, w=(4, 5))
        assert fed.wiring is not None
        single = {"main": fed.graphs["step"]}
        return [
            replace(fed, wiring=replace(fed.wiring, feeds={})),
            _program("logits = MatMul(c, w)", inputs=", float[4,5] w"),
            _program(plain, source="99", w=(4, 5)),
            Program(single),
        ]

    def workload(self) -> Program:
        """Four steps over 8 positions of width 256."""
        return _program(
            "j = Concat <axis = 1> (c, h_out)  logits = MatMul(j, w)", source="8", batch="1", width=256, w=(512, 5)
        )


def _program(
    tail: str, *, source: str = "source", batch: str = "batch", width: int = 4, inputs: str = "", **weights: Any
) -> Program:
    """A decoder with dot attention; ``tail`` makes the logits of its context ``c`` and state."""
    memory, state = f"float[{batch},{source},{width}] memory", f"float[{batch},{width}]"
    encoder = graph(f"(float[{batch},{source},{width}] x) => ({memory}) {{ memory = Tanh(x) }}")
    step = graph(
        f"""(int64[{batch}] token, {state} h, {memory}{inputs}) => (float[{batch},5] logits, {state} h_out) {{
            e = Gather(table, token)  h_out = Add(e, h)  q = Unsqueeze(h_out, two)
            s = MatMul(memory, q)  a = Softmax <axis = 1> (s)  t = Transpose <perm = [0, 2, 1]> (a)
            m = MatMul(t, memory)  c = Squeeze(m, one)  {tail} }}""",
        table=(5, width), one=i64(1), two=i64(2), **weights,
    )  # fmt: skip
    feeds, states = {"step.memory": "encoder.memory"}, {"step.h": "step.h_out"}
    return Program(
        {"encoder": encoder, "step": step}, Wiring(feeds, states, Stop("step.token", "step.logits", 0, 1, 4))
    )


RULE = HoistValues()
