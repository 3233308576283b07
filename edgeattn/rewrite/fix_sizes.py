"""fix_sizes: named dimensions become numbers, in every graph where they are the same dimension.

What: ``--fix batch=1 --fix height=224`` (or by input axis, ``--fix x:0=1``) writes the numbers into inputs, outputs and
everything between; what follows from them (Shape, Gather, Concat, Expand chains) is then constant and folds away. In a
wired program a dimension goes along the wiring: fixed in the encoder, it is fixed in the step. Without sizes: batch 1.

Why: NPUs and TensorRT profiles take static shapes only, and every engine plans memory and kernels better for them.
It is the one rewrite that changes what the model takes, so it is done by request only, and the report says so.

Before: x (batch, 3, height, width) → Shape → Gather → Concat → Reshape
After:  x (1, 3, 224, 224) → Reshape([1, 147])

Safe when: the model runs at these sizes; bit-exact there. A size that a state grows out of cannot be fixed. The cases
that judge the program are those of its cases that fit, and new ones drawn at these sizes.
Source: ONNX shape inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir

from edgeattn import cases, graphs
from edgeattn.errors import UsageError, did_you_mean, printable
from edgeattn.program import Program, Reference
from edgeattn.rewrite import _apply, _proto, _sizes
from edgeattn.rewrite._rule import BIT_EXACT, Miss, Outcome, ProgramRule, as_programs
from edgeattn.rewrite._sample import graph, i64

Place = tuple[str, str]  # a graph and what it calls a dimension, or "input:axis" for one without a name


class FixSizes(ProgramRule):
    """Dimensions fixed by name or by input axis.

    Args:
        sizes: ``{"batch": 1, "x:2": 224}``.
    """

    name = "fix_sizes"
    exactness = BIT_EXACT
    reshapes = True

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.sizes = dict(sizes or {"batch": 1})

    def apply(self, program: Program) -> Outcome:
        """The program at these sizes, and cases for it; a Miss where it cannot have them."""
        try:
            fixed = self.resolve(program)
            sized = {name: _at(model, name, fixed) for name, model in program.graphs.items()}
        except UsageError as error:
            return Outcome(program, 0, (Miss(error.what, error.where or "(program)", 0),))
        except onnx.shape_inference.InferenceError as error:
            reason = f"the graph cannot have these sizes: {str(error).strip().splitlines()[-1]}"
            return Outcome(program, 0, (Miss(reason, self.asked, 1),))
        if not fixed:
            return Outcome(program, 0, (Miss("every dimension named is that size already", self.asked, 1),))
        result = replace(program, graphs=sized)
        reference = _cases(result)
        given = ", ".join(map(str, graphs.program_inputs(result)))
        note = f"{self.asked}: it takes {given} from now on"
        return Outcome(
            replace(result, reference=reference), len(fixed), before=replace(program, reference=reference), note=note
        )

    @property
    def asked(self) -> str:
        """The sizes in words."""
        return ", ".join(f"{name}={size}" for name, size in self.sizes.items())

    def resolve(self, program: Program) -> dict[Place, int]:
        """Which dimensions of which graphs become which number.

        Raises:
            UsageError: a name that is no dimension (with the nearest), an axis that is none, two sizes for one
                dimension, or a dimension that grows from step to step.
        """
        dimensions = Dimensions.of(program)
        fixed: dict[Place, int] = {}
        for name, size in self.sizes.items():
            for place in dimensions.named(name, size):
                if fixed.setdefault(place, size) != size:
                    what = f"'{printable(name, 80)}' is the same dimension as one fixed at {fixed[place]}"
                    raise UsageError(what, where=f"--fix {self.asked}", hint="give one size for both")
        return fixed

    def examples(self) -> list[Program]:
        """A batch that a Reshape follows; an encoder and a step that share it."""
        from edgeattn.rewrite._loop_samples import wired

        flat = graph(
            """(float[batch,4,6] x) => (float[batch,24] y) {
                n = Shape <start = 0, end = 1> (x)
                size = Concat <axis = 0> (n, minus)
                y = Reshape(x, size) }""",
            minus=i64(-1),
        )
        return [*as_programs(flat), wired()]

    def near_misses(self) -> list[Program]:
        """Static already; no dimension of that name."""
        return as_programs(
            graph("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }"),
            graph("(float[rows,4] x) => (float[rows,4] y) { y = Relu(x) }"),
        )


@dataclass
class Dimensions:
    """The dimensions of a program that have no number yet, joined where they are one and the same.

    Attributes:
        groups: places that are the same dimension, each under its first.
        growing: dimensions of states that change from step to step.
    """

    program: Program
    groups: dict[Place, set[Place]] = field(default_factory=dict)
    growing: set[Place] = field(default_factory=set)

    @classmethod
    def of(cls, program: Program) -> Dimensions:
        """Read off inputs, outputs and wiring."""
        found = cls(program)
        inputs = {f"{g}.{s.name}": (g, s.shape) for g, m in program.graphs.items() for s in graphs.input_specs(m)}
        outputs = {f"{g}.{s.name}": (g, s.shape) for g, m in program.graphs.items() for s in graphs.output_specs(m)}
        for end, (name, shape) in inputs.items():
            for axis, dim in enumerate(shape):
                if isinstance(dim, str):
                    found.join(_place(name, dim, end, axis), _place(name, dim, end, axis))
        for name in {s.name for s in graphs.program_inputs(program)}:
            found._join_shapes([(e, *inputs[e]) for e in inputs if e.split(".", 1)[1] == name])
        for target, source in _edges(program):
            if target in inputs and source in outputs:
                found._join_shapes([(target, *inputs[target]), (source, *outputs[source])])
        found._find_growing(inputs)
        return found

    def join(self, a: Place, b: Place) -> None:
        """Two places are one dimension."""
        together = self.groups.get(a, {a}) | self.groups.get(b, {b})
        self.groups |= dict.fromkeys(together, together)

    def _join_shapes(self, ends: list[tuple[str, str, tuple[int | str, ...]]]) -> None:
        for (end, name, shape), (other, theirs, its) in pairwise(ends):
            for axis, (a, b) in enumerate(zip(shape, its, strict=False)):
                if isinstance(a, str) and isinstance(b, str):
                    self.join(_place(name, a, end, axis), _place(theirs, b, other, axis))

    def _find_growing(self, inputs: Mapping[str, tuple[str, tuple[int | str, ...]]]) -> None:
        """Dimensions of a state that come out larger than they went in, at sizes tried in shape inference."""
        wiring = self.program.wiring
        if wiring is None:
            return
        model = self.program.graphs[wiring.loop]
        parsed = ir.serde.deserialize_model(model)
        for shapes in _sizes.sampled(parsed.graph, _proto.opset_of(model)):
            for target, source in wiring.state.items():
                went, came = (shapes.get(end.split(".", 1)[1], ()) for end in (target, source))
                for axis, (before, after) in enumerate(zip(went, came, strict=False)):
                    dim = inputs[target][1][axis]
                    if before != after and isinstance(dim, str):
                        self.growing.add(_place(wiring.loop, dim, target, axis))

    def named(self, name: str, size: int) -> set[Place]:
        """Every place of the dimension that a user names.

        Raises:
            UsageError: see :meth:`FixSizes.resolve`.
        """
        places = {p for p in self.groups if p[1] == name} or self._at_axis(name, size)
        found = {other for place in places for other in self.groups.get(place, {place})}
        if found & self.growing:
            what = "grows from step to step, so it has no one size"
            raise UsageError(f"dimension '{printable(name, 80)}' {what}", where=f"--fix {name}={size}")
        return found

    def _at_axis(self, name: str, size: int) -> set[Place]:
        where = f"--fix {printable(name, 80)}={size}"
        specs = {s.name: s for s in graphs.program_inputs(self.program)}
        given, colon, axis = name.rpartition(":")
        if not colon or given not in specs or not axis.isdecimal():
            known = {p[1] for p in self.groups if ":" not in p[1]} | {f"{s}:0" for s in specs}
            raise UsageError(
                f"no dimension is called '{printable(name, 80)}'", where=where, hint=did_you_mean(name, known)
            )
        shape = specs[given].shape
        if int(axis) >= len(shape):
            raise UsageError(f"input '{given}' has {len(shape)} axes: {specs[given]}", where=where)
        dim = shape[int(axis)]
        if isinstance(dim, int):
            if dim != size:
                raise UsageError(f"axis {axis} of input '{given}' is {dim} already", where=where)
            return set()
        holders = [g for g, m in self.program.graphs.items() if any(v.name == given for v in m.graph.input)]
        return {_place(g, dim, f"{g}.{given}", int(axis)) for g in holders}


def _place(graph: str, dim: str, end: str, axis: int) -> Place:
    return graph, dim if dim != "?" else f"{end.split('.', 1)[1]}:{axis}"


def _edges(program: Program) -> Iterator[tuple[str, str]]:
    """Edges along which a shape stays: what is handed over once, and states that the step takes as it gives them."""
    wiring = program.wiring
    if wiring is None:
        return
    outputs = {f"{g}.{s.name}": s.shape for g, m in program.graphs.items() for s in graphs.output_specs(m)}
    inputs = {f"{g}.{s.name}": s.shape for g, m in program.graphs.items() for s in graphs.input_specs(m)}
    for target, source in wiring.feeds.items():
        state = wiring.state.get(target)
        if state is None or outputs.get(state) == inputs.get(target):
            yield target, source


def _at(model: onnx.ModelProto, name: str, fixed: Mapping[Place, int]) -> onnx.ModelProto:
    """A graph with the numbers written in, and its outputs as they follow from them."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    values = [*sized.graph.input, *sized.graph.output]
    for value in values:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                size = fixed.get((name, dim.dim_param or f"{value.name}:{axis}"))
                if size is not None:
                    dim.dim_value = size
    del sized.graph.value_info[:]
    sized = _apply.infer_shapes(sized)
    _declare_outputs(sized)
    return sized


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Output dimensions that are numbers now."""
    if any(d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim):
        return
    parsed = ir.serde.deserialize_model(model)
    for shapes in _sizes.sampled(parsed.graph, _proto.opset_of(model))[:1]:
        for value in model.graph.output:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
                if not dim.HasField("dim_value"):
                    dim.dim_value = size


def _cases(program: Program) -> Reference:
    """Cases at the sizes that a program has now: those that fit of the ones it had, then new ones."""
    specs = graphs.program_inputs(program)
    old = program.reference.cases if program.reference is not None else ()
    fitting = [replace(c, outputs={}, golden={}, rounded={}) for c in old if cases.fits(c, specs)]
    known = {s.name for s in specs}
    examples = {n: v for c in old for n, v in c.feeds.items() if n in known and np.asarray(v).size}
    drawn = [replace(c, name=f"fixed-{c.name}") for c in cases.of(program, specs, 0, examples)]
    return Reference("source graph", (*fitting, *drawn))


RULE = FixSizes()
