"""split_loop: a decoder that is a Loop or Scan in one graph becomes an encoder and a step, wired as data.

What: what lies before the loop becomes the graph ``encoder``, the loop's body the graph ``step``; what goes round
becomes its state, what it reads from outside its inputs, the trip count and the condition the end of decoding. The
bookkeeping of tokens, counters and ended rows goes: edgeattn's decode loop does it, on the bench and on the device.

Why: the keys of the attention can leave the step (``hoist_keys``), weights are prepacked, the step has static shapes
that accelerators compile, and every rule and the quantizer sees a plain graph. TensorRT needs it: a Loop's stacked
outputs want a constant trip count there.

Before: encoder → Loop(steps, going)[ token → step → logits → ArgMax → token; tokens ++ token ] → tokens
After:  encoder → memory;  decode loop: [ step(token, state, memory) → logits, state ]

Safe when: the loop's bookkeeping, run operator by operator on made-up choices, feeds the tokens and ends when the
decode loop does; and every output is the tokens, or every step's value stacked. A loop over given tokens (teacher
forcing) becomes a program that is forced to them. Applied where asked for: outputs come as the decode loop gives
them, and what that changes is said. The numbers on the reference cases then decide, as for every rule.
Source: ONNX operators Loop and Scan; edgeattn's decode loop (``edgeattn/decode.py``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.program import Case, Program, Stop, Wiring
from edgeattn.rewrite import _apply, _loop_plan, _loop_samples, _proto, _ranges
from edgeattn.rewrite._loop_form import Carried, NoFit
from edgeattn.rewrite._loop_outputs import TOKENS
from edgeattn.rewrite._rule import ALLCLOSE, Miss, Outcome, ProgramRule

if TYPE_CHECKING:
    from edgeattn.program import Arrays, Reference
    from edgeattn.rewrite._loop_plan import Plan

_TABLES = 16  # a decoder that was unrolled reads its table more often than any other


class SplitLoop(ProgramRule):
    """A decoder's Loop or Scan, as an encoder and a step."""

    name = "split_loop"
    exactness = ALLCLOSE
    reshapes = True
    suggests = True

    def apply(self, program: Program) -> Outcome:
        """Two graphs and their wiring; the cases are asked as the decode loop takes them."""
        if program.wiring is not None:
            return Outcome(program, 0, (Miss("it is split already: its wiring is the loop", "(program)", 0),))
        (model,) = program.graphs.values()
        try:
            plan = _loop_plan.make(model)
            graphs, wiring = Splitter(plan).program()
        except NoFit as no:
            return Outcome(program, 0, (_unrolled(model) or no.miss,))
        except Exception as error:  # a graph may hold anything; what cannot be read is not split
            return Outcome(program, 0, (Miss(f"its loop cannot be read: {type(error).__name__}: {error}", "Loop", 1),))
        split = Program(graphs, wiring, _asked(program.reference, plan.forced), program.history)

        def retold(outputs: Arrays) -> Arrays:
            by_name = {g.name: g for g in plan.given}
            found = {
                (name if by_name[name].value else TOKENS): by_name[name].told(np.asarray(value))
                for name, value in outputs.items()
            }
            tokens = found.get(TOKENS)
            if plan.greedy.runs_on and tokens is not None:
                found = {n: v if n == TOKENS else v[: tokens.shape[1]] for n, v in found.items()}
            return found

        return Outcome(split, 1, retold=retold, note=_note(plan))

    def examples(self) -> list[Program]:
        """Loops as exporters write them: tokens concatenated, put into a buffer, stacked; a Scan over given tokens."""
        return _loop_samples.decoders()

    def near_misses(self) -> list[Program]:
        """Loops that the decode loop cannot be, and a decoder that was unrolled."""
        return _loop_samples.others()


class Splitter:
    """Builds the two graphs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.setting, self.form = plan, plan.setting, plan.setting.form
        taken = _proto.value_names(self.setting.graph)
        self.before = _proto.Writer("split_loop", self.form.label, taken)
        self.step = _proto.Writer("split_loop", self.form.label, taken)
        self.states = self._states()

    def program(self) -> tuple[dict[str, onnx.ModelProto], Wiring]:
        """Graphs by name in the order they run, and how they feed each other."""
        step, outer, token = self._step()
        firsts = {c.inside: self._first(c) for c in self.states}
        handed = {name: name for name in outer}
        feeds = {f"step.{inside}": f"encoder.{value}" for inside, value in (handed | firsts).items()}
        state = {f"step.{c.inside}": f"step.{c.following}" for c in self.states}
        loop = self.plan.greedy
        stop = Stop(f"step.{token}", f"step.{self.logits}", loop.start, loop.end, loop.max_steps)
        encoder = self._encoder(sorted({*handed.values(), *firsts.values()}))
        graphs = {"encoder": encoder, "step": step} if feeds else {"step": step}
        return graphs, Wiring(feeds, state, stop)

    def _states(self) -> list[Carried]:
        """What goes round, each with a following value of its own; the turn's number among it where it is read."""
        if not self.plan.turn:
            return list(self.plan.states)
        following = self.step.op("Add", self.form.turn, self.step.const("one", np.int64(1)), stem="next_turn")
        first = self.before.op("Identity", self.before.const("zero", np.int64(0)), stem="first_turn")
        return [*self.plan.states, Carried(first, self.form.turn, following, "")]

    def _first(self, state: Carried) -> str:
        """The encoder's output that a state begins with."""
        if state.first in self.setting.outer_maker and self.setting.constant(state.first) is None:
            return state.first
        if any(state.first in n.output for n in self.before.nodes):
            return state.first
        return self.before.op("Identity", state.first, stem=f"first_{state.inside}")

    def _step(self) -> tuple[onnx.ModelProto, list[str], str]:
        """The step, the computed values from outside that it reads, and what its token is called."""
        plan, setting, out = self.plan, self.setting, self.step
        token = out.fresh("token")
        heads = _proto.Writer("split_loop", self.form.label, out.taken)
        for name in plan.tokens:
            if len(setting.dims(name) or [0]) == 2:
                heads.op("Unsqueeze", token, out.const("column", np.array([1], np.int64)), outputs=[name])
            else:
                heads.op("Identity", token, outputs=[name])
        stop = {*plan.tokens, *(c.inside for c in self.states)}
        wanted = [w for w in plan.wanted if w not in stop]
        nodes = [*heads.nodes, *_loop_plan.decoder(setting, wanted, stop)]
        self.logits, outputs = self._outputs()
        nodes += out.nodes
        read = {r for n in nodes for r in _proto.reads(n)} - {o for n in nodes for o in n.output}
        read -= {c.inside for c in self.states} | {token} | {t.name for t in out.constants}
        free = [n for n in setting.inputs if n in read]
        outer = sorted(n for n in read - set(free) if setting.constant(n) is None)
        rows = (setting.dims(setting.inputs[0]) or ["batch"])[0] if setting.inputs else "batch"
        inputs = [helper.make_tensor_value_info(token, TensorProto.INT64, [rows])]
        inputs += [self._declared(n, setting.dims(n)) for n in (*free, *outer)]
        inputs += [self._declared(c.inside, self._sizes(c)) for c in self.states]
        return self._model("step", nodes, inputs, outputs, out.constants), outer, token

    def _outputs(self) -> tuple[str, list[str]]:
        """The step's outputs by name, and which of them the next token is chosen from; one value may have several."""
        names: dict[str, str] = {}
        for given in self.plan.given:
            if given.value:
                names[given.name] = self.step.op("Identity", given.value, outputs=[f"{given.name}"])
        logits, dims = self.plan.logits, self.setting.dims(self.plan.logits) or []
        known = next((g.name for g in self.plan.given if g.value == logits), "") if len(dims) == 2 else ""
        if not known:
            axis = self.step.const("row", np.array([1], np.int64))
            rest = [logits, axis] if len(dims) == 3 else [logits]
            known = self.step.op("Squeeze" if len(dims) == 3 else "Identity", *rest, stem="logits")
        following = []
        for index, state in enumerate(self.states):
            name = self.step.op("Identity", state.following, stem=f"{state.inside}_next")
            self.states[index] = replace(state, following=name)
            following.append(name)
        return known, list(dict.fromkeys([known, *names, *following]))

    def _sizes(self, state: Carried) -> list[int | str]:
        """What a state's first and every other value have in common."""
        first, later = self.setting.dims(state.first), self.setting.dims(state.following)
        first = first if first is not None else self.setting.dims(state.inside)
        if first is None:
            raise NoFit(f"the rank of the state '{state.inside}' is not known", self.form.label, 5)
        if later is None or len(later) != len(first):
            return first
        grows = [isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(first, later, strict=True)]
        return [f"{state.inside}_{i}" if grown else d for i, (d, grown) in enumerate(zip(first, grows, strict=True))]

    def _encoder(self, outputs: list[str]) -> onnx.ModelProto:
        """Everything before the loop that the step needs."""
        nodes = [*self.setting.graph.node, *self.before.nodes]
        kept = _proto.cone(nodes, outputs)
        read = {r for n in kept for r in _proto.reads(n)}
        inputs = [self._declared(n, self.setting.dims(n)) for n in self.setting.inputs if n in read]
        return self._model("encoder", kept, inputs, outputs, self.before.constants)

    def _declared(self, name: str, dims: list[int | str] | None) -> onnx.ValueInfoProto:
        kind = self.setting.types.get(name)
        elem = kind.tensor_type.elem_type if kind is not None else 0
        elem = TensorProto.INT64 if name == self.form.turn else elem
        if not elem or dims is None:
            raise NoFit(f"the type of '{name}' is not known", self.form.label, 5)
        known = [None if d == "?" or str(d).startswith("unk__") else d for d in dims]
        return helper.make_tensor_value_info(name, elem, known)

    def _model(
        self,
        name: str,
        nodes: list[onnx.NodeProto],
        inputs: list[onnx.ValueInfoProto],
        outputs: list[str],
        constants: list[onnx.TensorProto],
    ) -> onnx.ModelProto:
        """A graph with the weights its nodes read, its outputs declared as shape inference finds them."""
        source, setting = self.setting.model, self.setting
        read = {r for n in nodes for r in _proto.reads(n)}
        made = {o for n in nodes for o in n.output} | {v.name for v in inputs}
        graph = onnx.GraphProto(name=name)
        graph.initializer.extend(t for t in constants if t.name in read)
        for weight in sorted(read - made - {t.name for t in graph.initializer}):
            array = setting.constant(weight)
            assert array is not None
            graph.initializer.append(onnx.numpy_helper.from_array(array, weight))
        graph.node.extend(nodes)
        graph.input.extend(inputs)
        graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
        model = helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
        model.producer_name, model.producer_version = source.producer_name, source.producer_version
        return _with_outputs(model)


def _with_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its outputs' types and shapes as inference finds them."""
    bare = _apply.skeleton(model)
    found = _ranges.infer(bare)
    for ours, theirs in zip(model.graph.output, found.graph.output, strict=True):
        ours.CopyFrom(theirs)
        if not ours.type.tensor_type.elem_type:
            raise NoFit(f"the type of '{ours.name}' is not known", ours.name, 5)
        for dim in ours.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):
                dim.ClearField("dim_param")
    return _apply.infer_shapes(model)


def _asked(reference: Reference | None, forced: str) -> Reference | None:
    """The cases as the decode loop takes them: given tokens are forced, without any it decodes."""
    if reference is None:
        return None

    def asked(case: Case) -> Case:
        feeds = {n: v for n, v in case.feeds.items() if n != forced}
        return Case(case.name, feeds, case.feeds[forced] if forced else None)

    return replace(reference, cases=tuple(asked(c) for c in reference.cases))


def _note(plan: Plan) -> str:
    """What is seen otherwise from outside."""
    changes = [g.change for g in plan.given if g.change]
    if plan.forced:
        changes.append(
            f"'{plan.forced}' is given as the tokens to force; the graph names neither a start nor an end token: "
            "0 and none stand in the wiring"
        )
    return "; ".join(changes)


def _unrolled(model: onnx.ModelProto) -> Miss | None:
    """A decoder whose steps were traced one after another: its table and its weights are read again and again."""
    weights = {t.name: len(t.dims) for t in model.graph.initializer}
    reads: Counter[tuple[str, str]] = Counter()
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if weights.get(name) == 2 and node.op_type in ("Gather", "MatMul", "Gemm"):
                reads[name, node.op_type] += 1
    tables = [(table, times) for (table, op), times in reads.most_common() if op == "Gather" and times >= 3]
    for table, times in tables[:_TABLES]:
        products = sum(n >= times - 1 for (_, o), n in reads.items() if o != "Gather")
        if products >= 2:
            reason = (
                f"its decoder was unrolled {times} times ('{table}' is looked up {times} times, {products} weights are "
                "read as often): export one step instead, see docs/decoders.md"
            )
            return Miss(reason, table, 1)
    return None


RULE = SplitLoop()
