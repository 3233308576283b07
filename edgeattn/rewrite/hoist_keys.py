"""hoist_keys: what every decoder step computes from the memory alone, the encoder computes once.

What: in the graph that runs once per step, products (MatMul, Gemm, Conv, Einsum) of a constant weight with values that
the encoder handed over move into the encoder. They become one more encoder output and step input (``memory_keys``),
and the wiring says so. Reshapes, Transposes, biases and activations between move along. A handed-over input that nobody
reads any more goes. A step that is given alone stays as it is; the rule says what would move, and how to give both.

Why: Luong's ``W h̄`` and Bahdanau's ``U h̄`` cost S·D² multiply-adds a step for a result that never changes. This is
the largest single gain on a sequence-to-sequence decoder.

Before: step: MatMul(memory, W) → MatMul(·, h)
After: encoder: memory_keys = MatMul(memory, W); step: MatMul(memory_keys, h)

Safe when: the moved part reads only constants and values that one other graph hands over once (never state, never
the token, never program inputs). The same operators run on the same numbers: equal up to the engine's blocking.
Source: Bahdanau et al. 2015, appendix A.2.2 ("can be pre-computed"); Luong et al. 2015, equation 8, general.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeattn.program import Program, Stop, Wiring
from edgeattn.rewrite._loop import HEAVY, Loop, handed_over, hoisted
from edgeattn.rewrite._rule import ALLCLOSE, Miss, Outcome, ProgramRule
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import const, dims


class HoistKeys(ProgramRule):
    """Loop-invariant projections, out of the step and into the encoder."""

    name = "hoist_keys"
    exactness = ALLCLOSE

    def apply(self, program: Program) -> Outcome:
        """Move every invariant projection; wiring and two graphs change."""
        wiring = program.wiring
        if wiring is None:
            return Outcome(program, 0, tuple(_alone(program)))
        model = ir.serde.deserialize_model(program.graphs[wiring.loop])
        loop = Loop(model.graph, handed_over(model.graph, wiring))
        loop.survey()
        misses = tuple(_misses(loop, wiring.loop))
        changed, count = hoisted(program, wiring, "keys")
        return Outcome(changed, count, misses)

    def examples(self) -> list[Program]:
        """Luong general; Bahdanau's additive keys with a bias and a Transpose, where the raw memory goes away."""
        return [
            _program("k = MatMul(memory, weight)"),
            _program("t = Transpose <perm = [0, 1, 2]> (memory)  p = MatMul(t, weight)  k = Add(p, bias)", context="k"),
        ]

    def workload(self) -> Program:
        """Luong general over 30 positions of width 256; the case that is timed takes a few steps."""
        return _program("k = MatMul(memory, weight)", width=256, sizes=("1", "30"))

    def near_misses(self) -> list[Program]:
        """The product is of state; the keys come from the encoder already; the weight is fed; there is no loop."""
        single = graph("(float[batch,s,4] m) => (float[batch,s,4] y) { y = MatMul(m, weight) }", weight=(4, 4))
        return [
            _program("k = Identity(memory)  hw = MatMul(h, weight)", query="hw"),
            _program("k = Relu(memory)"),
            _program("k = MatMul(memory, fed)", inputs=", float[4,4] fed"),
            Program({"main": single}),
        ]


def _misses(loop: Loop, name: str) -> list[Miss]:
    """Why each product of the step stays there."""
    found = []
    for node in loop.graph:
        if node.op_type not in HEAVY or node.outputs[0] in loop.origin:
            continue
        changing = [v.name or "" for v in node.inputs if v is not None and loop.sources(v) is None]
        reason = f"it reads '{changing[0]}', which changes from step to step or is fed by the caller"
        label = node.name or node.outputs[0].name or node.op_type
        found.append(Miss(reason, label, len(node.inputs) - len(changing), label, name))
    return found


def _alone(program: Program) -> list[Miss]:
    """What could be hoisted from a graph that is given alone, and how to give it so that it is."""
    found = []
    for name, proto in program.graphs.items():
        if not any(node.op_type in HEAVY for node in proto.graph.node):
            continue
        alone = ir.serde.deserialize_model(proto).graph
        memories = [v for v in alone.inputs if len(dims(v) or ()) == 3 and len(alone.inputs) > 1]
        loop = Loop(alone, {v: f"encoder.{v.name}" for v in memories})
        loop.survey()
        heavy = (next(n for n in loop.cone(target) if n.op_type in HEAVY) for target in loop.frontier())
        for node in dict.fromkeys(n for n in heavy if any(const(v) is not None for v in n.inputs)):
            fed = next(v.name for n in loop.cone(node.outputs[0]) for v in n.inputs if v in loop.handed)
            reason = f"it is a constant's product with the input '{fed}'; if that stays from step to step, {_both(fed)}"
            label = node.name or node.outputs[0].name or node.op_type
            found.append(Miss(reason, label, 2, label, name))
        if memories and not found and any(v.dtype in (ir.DataType.INT64, ir.DataType.INT32) for v in alone.inputs):
            reason = f"a single graph has no loop to hoist from; if it is a decoder's step, {_both(memories[0].name)}"
            found.append(Miss(reason, "(program)", 0))
    return found or [Miss("a single graph has no loop to hoist from", "(program)", 0)]


def _both(fed: str | None) -> str:
    return (
        f"give it with the graph that makes '{fed}', as a directory: encoder.onnx, step.onnx, and wiring.json "
        f'with "feeds": {{"step.{fed}": "encoder.{fed}"}} (`edgeattn export` of a translator writes one)'
    )


def _program(
    keys: str,
    *,
    query: str = "h",
    context: str = "memory",
    inputs: str = "",
    width: int = 4,
    sizes: tuple[str, str] = ("batch", "source"),
) -> Program:
    """A one-layer decoder around the line that makes the keys ``k`` from ``memory``."""
    batch, source = sizes
    memory, state = f"float[{batch},{source},{width}]", f"float[{batch},{width}]"
    encoder = graph(f"({memory} x) => ({memory} memory) {{ memory = Tanh(x) }}")
    step = graph(
        f"""(int64[{batch}] token, {state} h, {memory} memory{inputs})
            => (float[{batch},5] logits, {state} h_out) {{
            e = Gather(table, token)
            h_out = Add(e, h)
            {keys}
            q = Unsqueeze({query}, last)
            score = MatMul(k, q)
            a = Softmax <axis = 1> (score)
            weighted = Mul(a, {context})
            c = ReduceSum <keepdims = 0> (weighted, one)
            both = Add(c, h_out)
            logits = MatMul(both, output) }}""",
        table=(5, width),
        weight=(width, width),
        bias=(width,),
        output=(width, 5),
        one=i64(1),
        last=i64(2),
    )
    wiring = Wiring(
        feeds={"step.memory": "encoder.memory"},
        state={"step.h": "step.h_out"},
        stop=Stop("step.token", "step.logits", 0, 1, 4),
    )
    return Program({"encoder": encoder, "step": step}, wiring)


RULE = HoistKeys()
