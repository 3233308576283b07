"""merge_loop: a decoder's graphs and its greedy loop as one graph with a standard Loop.

What: the graphs that run once, and around the step a Loop: ArgMax of the logits is the next token, ended rows are fed
the end token, the Loop ends when every row has ended or after ``max_steps``. It gives ``tokens`` (batch, steps) and
every step output that is no state, stacked on axis 0, as edgeattn's decode loop does.

Why: one call instead of one a token: the state never leaves the engine, and the host needs no decode loop. Engines
differ: OpenVINO runs a Loop faster than its steps, ONNX Runtime does not prepack weights inside a Loop.

Before: encoder → memory;  host: [ step(token, state, memory) → logits, state ] × steps
After:  encoder → memory → Loop[ step → ArgMax → Where(ended, end, ·) ] → tokens

Safe when: the program decodes greedily (it always can) and its graphs share one opset. The step's operators are the
same; teacher forcing is no longer possible. Applied where asked for; with a target, kept only if measured faster there.
Source: ONNX operator Loop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn import graphs as reading
from edgeattn.program import Program, Wiring
from edgeattn.rewrite import _apply, _loop_samples, _proto
from edgeattn.rewrite._rule import ALLCLOSE, Miss, Outcome, ProgramRule
from edgeattn.rewrite._sample import graph

if TYPE_CHECKING:
    from edgeattn.program import Arrays, TensorSpec

TOKENS = "tokens"


class MergeLoop(ProgramRule):
    """Encoder, step and the greedy loop between them, in one graph."""

    name = "merge_loop"
    exactness = ALLCLOSE
    measured = True
    reshapes = True

    def apply(self, program: Program) -> Outcome:
        """One graph named ``main``; the cases are decoded greedily by both forms."""
        obstacle = _obstacle(program)
        if program.wiring is None or obstacle is not None:
            return Outcome(program, 0, (obstacle or Miss("a single graph has no steps to merge", "(program)", 0),))
        reference = program.reference
        if reference is not None:
            cases = tuple(replace(c, tokens=None, outputs={}, golden={}, rounded={}) for c in reference.cases)
            reference = replace(reference, cases=cases)
        merged = Program({"main": Merger(program, program.wiring).model()}, None, reference, program.history)
        hidden = {source.split(".", 1)[1] for source in program.wiring.state.values()}

        def retold(outputs: Arrays) -> Arrays:
            return {name: value for name, value in outputs.items() if name not in hidden}

        note = f"decodes greedily, at most {program.wiring.stop.max_steps} tokens; forced tokens are not taken"
        return Outcome(merged, 1, before=replace(program, reference=reference), retold=retold, note=note)

    def examples(self) -> list[Program]:
        """A decoder with attention whose encoder hands over its state; one whose state starts at zero."""
        return [_loop_samples.wired(), _loop_samples.wired(handed=False)]

    def near_misses(self) -> list[Program]:
        """A single graph; a step with another opset; one that already gives something called tokens."""
        odd = _loop_samples.wired()
        older = onnx.ModelProto()
        older.CopyFrom(odd.graphs["step"])
        older.opset_import[0].version = 17
        single = graph("(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }")
        return [
            Program({"main": single}),
            replace(odd, graphs={**odd.graphs, "step": older}),
            _loop_samples.wired(alignment=TOKENS),
        ]


class Merger:
    """Builds the merged graph.

    Values of a graph are prefixed with its name, program inputs keep theirs. The step's weights lie inside the Loop:
    ONNX Runtime prepacks them there, and does not where they come from outside.
    """

    def __init__(self, program: Program, wiring: Wiring) -> None:
        self.program, self.wiring, self.stop = program, wiring, wiring.stop
        self.free = {s.name: s for s in reading.program_inputs(program)}
        self.step = program.graphs[wiring.loop].graph
        self.inputs = {s.name: s for s in reading.input_specs(program.graphs[wiring.loop])}
        self.names = {graph: self._names_of(graph) for graph in program.graphs}
        taken = {*self.free, TOKENS, *(v.name for v in self.step.output)}
        taken |= {name for names in self.names.values() for name in names.values()}
        self.outer = _proto.Writer("merge_loop", wiring.loop, taken)
        self.body = _proto.Writer("merge_loop", wiring.loop, taken)

    def model(self) -> onnx.ModelProto:
        """The whole graph, with shapes inferred."""
        source = next(iter(self.program.graphs.values()))
        graph = onnx.GraphProto(name="main")
        for name, part in self.program.graphs.items():
            if name != self.wiring.loop:
                copy = _proto.renamed(part.graph, self.names[name])
                graph.initializer.extend(copy.initializer)
                graph.node.extend(copy.node)
        outputs = self._loop()
        graph.node.extend(self.outer.nodes)
        graph.initializer.extend([*self.outer.constants, *self.body.constants])
        graph.input.extend(self._declared_inputs())
        graph.output.extend(outputs)
        model = helper.make_model(graph, opset_imports=source.opset_import, ir_version=max(source.ir_version, 8))
        model.producer_name, model.producer_version = source.producer_name, source.producer_version
        return _apply.infer_shapes(model)

    def _names_of(self, graph: str) -> dict[str, str]:
        """What each value of a graph is called in the merged one; fed inputs by the name of what feeds them."""
        found = {}
        for name in _proto.value_names(self.program.graphs[graph].graph):
            edge = self.wiring.feeds.get(f"{graph}.{name}")
            if f"{graph}.{name}" in self.wiring.state:
                found[name] = f"{graph}/{name}"
            elif edge is not None:
                found[name] = edge.replace(".", "/", 1)
            elif not any(name == v.name for v in self.program.graphs[graph].graph.input) or name not in self.free:
                found[name] = f"{graph}/{name}"
        return found

    def _declared_inputs(self) -> list[onnx.ValueInfoProto]:
        every = {v.name: v for model in self.program.graphs.values() for v in reversed(model.graph.input)}
        return [every[name] for name in self.free]

    def _loop(self) -> list[onnx.ValueInfoProto]:
        """The Loop node with what leads to it and what its results become; the declared graph outputs."""
        batch = self._batch()
        token, ended, firsts = self._beginning(batch)
        carried = {token: _tensor(self.stop.token), ended: ""}
        carried |= {self._initial(name, batch): name for name in self._states()}
        body, given = self._body(list(carried.values()))
        trips = self.outer.const("max_steps", np.int64(self.stop.max_steps - bool(self.stop.first)))
        going = self.outer.op("Not", self._all(self.outer, ended), stem="going")
        finals = [self.outer.fresh(f"last/{name or 'ended'}") for name in carried.values()]
        emitted = self.outer.fresh("emitted")
        self.outer.op("Loop", trips, going, *carried, outputs=[*finals, emitted, *given], body=body)
        tokens = self.outer.op("Transpose", emitted, perm=[1, 0], outputs=[] if firsts else [TOKENS])
        if firsts:
            self.outer.op("Concat", firsts, tokens, axis=1, outputs=[TOKENS])
        return [helper.make_tensor_value_info(TOKENS, TensorProto.INT64, [self._row, "steps"]), *self._outputs(given)]

    @property
    def _row(self) -> int | str:
        """The size of the batch as the token declares it."""
        return self.inputs[_tensor(self.stop.token)].shape[0]

    def _batch(self) -> str:
        """The number of rows, as a tensor of one element."""
        if isinstance(self._row, int):
            return self.outer.const("batch", np.array([self._row], np.int64))
        size = self.outer.op("Shape", next(iter(self.free)), stem="size")
        return self.outer.op("Gather", size, self.outer.const("first_axis", np.array([0], np.int64)), stem="batch")

    def _beginning(self, batch: str) -> tuple[str, str, str]:
        """The first token fed, which rows have ended by then, and (where a graph predicts it) that token (B, 1)."""
        stop, out = self.stop, self.outer
        if not stop.first:
            token = out.op("Expand", out.const("start", np.int64(stop.start)), batch, stem="first_token")
            return token, out.op("Expand", out.const("none_ended", np.bool_(False)), batch, stem="ended"), ""
        token = out.op("ArgMax", stop.first.replace(".", "/", 1), axis=-1, keepdims=0, stem="first_token")
        ended = out.op("Equal", token, out.const("end", np.int64(stop.end)), stem="ended")
        return token, ended, out.op("Unsqueeze", token, out.const("last_axis", np.array([1], np.int64)), stem="firsts")

    def _states(self) -> list[str]:
        return [name for name in self.inputs if f"{self.wiring.loop}.{name}" in self.wiring.state]

    def _initial(self, state: str, batch: str) -> str:
        """A state's first value: what another graph hands over, else zeros sized by the batch."""
        edge = self.wiring.feeds.get(f"{self.wiring.loop}.{state}")
        if edge is not None:
            return self.outer.op("Identity", edge.replace(".", "/", 1), stem=f"first/{state}")
        spec = self.inputs[state]
        sizes = [self.outer.const("size", np.array([d], np.int64)) if isinstance(d, int) else batch for d in spec.shape]
        shape = self.outer.op("Concat", *sizes, axis=0, stem="shape") if sizes else self.outer.const("shape", _EMPTY)
        zero = self.outer.const("zero", np.zeros((), spec.dtype))
        return self.outer.op("Expand", zero, shape, stem=f"first/{state}")

    def _body(self, carried: list[str]) -> tuple[onnx.GraphProto, list[str]]:
        """The Loop's body, and the names of the step outputs that are stacked."""
        loop, stop, out = self.wiring.loop, self.stop, self.body
        names = self.names[loop]
        states = self._states()
        following = {s: names[_tensor(self.wiring.state[f"{loop}.{s}"])] for s in states}
        chosen = out.op("ArgMax", names[_tensor(stop.emits)], axis=-1, keepdims=0, stem="chosen")
        end = out.const("end", np.int64(stop.end))
        was_ended = out.fresh("was_ended")
        token = out.op("Where", was_ended, end, chosen, stem="token")
        ended = out.op("Or", was_ended, out.op("Equal", token, end, stem="is_end"), stem="ended")
        going = out.op("Not", self._all(out, ended), stem="going")
        given = self._stacked()
        emits = [token, *(names[n] for n in given)]
        results = [going, token, ended, *following.values()]
        outputs = [out.op("Identity", v, stem="out") for v in (*results, *emits)]  # one value may serve twice
        kinds = [TensorProto.BOOL, TensorProto.INT64, TensorProto.BOOL]
        types = {v.name: v.type for v in (*self.step.input, *self.step.output)}
        body = onnx.GraphProto(name=f"{loop}_body")
        body.input.extend(
            [
                helper.make_tensor_value_info(out.fresh("trip"), TensorProto.INT64, []),
                helper.make_tensor_value_info(out.fresh("go_on"), TensorProto.BOOL, []),
                helper.make_tensor_value_info(names[carried[0]], TensorProto.INT64, [self._row]),
                helper.make_tensor_value_info(was_ended, TensorProto.BOOL, [self._row]),
                *(helper.make_value_info(names[s], types[s]) for s in states),
            ]
        )
        step = _proto.renamed(self.step, names)
        body.initializer.extend(step.initializer)
        body.node.extend(step.node)
        body.node.extend(out.nodes)
        declared = [helper.make_tensor_type_proto(kind, None) for kind in kinds]
        declared += [_ranked(types[s]) for s in states] + [helper.make_tensor_type_proto(TensorProto.INT64, None)]
        declared += [_ranked(types[n]) for n in given]
        body.output.extend(helper.make_value_info(n, t) for n, t in zip(outputs, declared, strict=True))
        return body, given

    def _stacked(self) -> list[str]:
        """Step outputs that are not merely the next step's state."""
        hidden = {_tensor(source) for source in self.wiring.state.values()}
        return [v.name for v in self.step.output if v.name not in hidden]

    @staticmethod
    def _all(out: _proto.Writer, flags: str) -> str:
        """Whether every row is set, in operators that all engines have."""
        numbers = out.op("Cast", flags, to=TensorProto.INT32, stem="flags")
        return out.op("Cast", out.op("ReduceMin", numbers, keepdims=0, stem="least"), to=TensorProto.BOOL, stem="all")

    def _outputs(self, given: list[str]) -> list[onnx.ValueInfoProto]:
        """The declared outputs behind ``tokens``: stacked step outputs, and what predicted the first token."""
        declared = []
        for value in self.step.output:
            if value.name in given:
                kind = value.type.tensor_type
                dims = [d.dim_param or d.dim_value for d in kind.shape.dim]
                declared.append(helper.make_tensor_value_info(value.name, kind.elem_type, ["steps", *dims]))
        if self.stop.first:
            graph, name = self.stop.first.split(".", 1)
            (kind,) = (v.type for v in self.program.graphs[graph].graph.output if v.name == name)
            self.outer.op("Identity", self.names[graph][name], outputs=[self.stop.first])
            declared.append(helper.make_value_info(self.stop.first, kind))
        return declared


_EMPTY = np.zeros(0, np.int64)


def _tensor(edge_end: str) -> str:
    return edge_end.split(".", 1)[1]


def _ranked(kind: onnx.TypeProto) -> onnx.TypeProto:
    """The type without its sizes: what a step declares by names differs from what the loop carries."""
    copy = onnx.TypeProto()
    copy.CopyFrom(kind)
    for dim in copy.tensor_type.shape.dim:
        dim.ClearField("dim_param")
    return copy


def _obstacle(program: Program) -> Miss | None:
    """Why a wired program cannot become one graph."""
    if program.wiring is None:
        return None
    loop, models = program.wiring.loop, program.graphs
    opsets = {name: _proto.opset_of(model) for name, model in models.items()}
    if len(set(opsets.values())) > 1:
        return Miss(f"its graphs are written in several opsets: {opsets}", loop, 1, graph=loop)
    if any(v.name == TOKENS for v in models[loop].graph.output):
        return Miss(f"a step output is called '{TOKENS}', as the decoded tokens are", TOKENS, 1, graph=loop)
    if any(s.name == TOKENS for s in reading.program_inputs(program)):
        return Miss(f"a program input is called '{TOKENS}', as the decoded tokens are", TOKENS, 1)
    token = {s.name: s for s in reading.input_specs(models[loop])}.get(_tensor(program.wiring.stop.token))
    if token is None or token.dtype != "int64" or len(token.shape) != 1:
        return Miss(f"the token is {token}; expected int64 (batch,)", program.wiring.stop.token, 1, graph=loop)
    given: list[TensorSpec] = reading.program_inputs(program)
    if not given or not given[0].shape:
        return Miss("no program input tells the size of the batch", "(program)", 1)
    if any(model.graph.sparse_initializer for model in models.values()):
        return Miss("sparse weights are not moved", "(program)", 1)
    return None


RULE = MergeLoop()
