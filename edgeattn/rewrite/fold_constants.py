"""fold_constants: what does not depend on the input is computed once, now.

What: nodes that read constants only become initializers, Constant nodes too; an If whose condition is then known
becomes the branch it takes; Identity nodes, nodes that lead nowhere and initializers that nobody reads go away. Runs
onnxsim without its fusions; where onnxsim is absent or fails, onnxscript's folder does the same work.

Why: every later rule asks "is this a constant?"; shape chains and Constant nodes hide the answer.

Before: Add(x, Sqrt(Constant)) → Identity
After: Add(x, initializer)

Safe when: always; nothing that an input can change is touched, nor random numbers and loops. A graph that would make
a constant of more than 128 MB on the way is left alone. Names, order and dynamic dimensions of inputs and
outputs are put back as they were, and so are the module names onnxsim drops. Folded values may round differently
than the engine would, hence allclose.
Source: onnxsim's and onnxscript's documentation.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeattn import outside
from edgeattn.phase import native
from edgeattn.program import Program
from edgeattn.rewrite import _ranges
from edgeattn.rewrite._apply import finish, skeleton
from edgeattn.rewrite._branches import inline_known
from edgeattn.rewrite._rule import ALLCLOSE, Miss, Outcome, ProgramRule, as_programs
from edgeattn.rewrite._sample import f32, graph
from edgeattn.standard import all_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


LARGEST_BYTES = 128 << 20  # a constant above this is left to be computed: files must not grow without bound
LARGEST = "128MB"  # the same, as onnxsim wants it
MAKERS = frozenset({"Range", "ConstantOfShape", "Expand", "Tile", "OneHot", "Pad", "Resize", "Upsample"})
MAKERS |= {"HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "CenterCropPad"}
UNKNOWN = LARGEST_BYTES  # of a dimension that inference cannot tell
ROUNDS = 16  # Ifs that wait for one another, one a round


class FoldConstants(ProgramRule):
    """Constant subgraphs, Identity and dead parts, folded away."""

    name = "fold_constants"
    exactness = ALLCLOSE

    def apply(self, program: Program) -> Outcome:
        """Fold each graph that has something to fold; the count is the number of nodes that went."""
        graphs, misses, count = dict(program.graphs), [], 0
        for name, model in program.graphs.items():
            if not any(_foldable(model)):
                misses.append(Miss("every node depends on an input and is read", name, 0, graph=name))
                continue
            if large := _too_large(model):
                misses.append(Miss(f"it would make {large[1]:,} elements of a few", large[0], 1, graph=name))
                continue
            folded = _restored(_settled(model), model)
            gone = _count(model) - _count(folded)
            gone = gone or int(len(model.graph.initializer) > len(folded.graph.initializer))
            if gone > 0:
                graphs[name], count = folded, count + gone
            else:
                misses.append(Miss("shapes are read, but they follow the input", name, 1, graph=name))
        return Outcome(replace(program, graphs=graphs) if count else program, count, tuple(misses))

    def examples(self) -> list[Program]:
        """A constant expression, a shape of known size, an Identity, a dead node and an unread initializer."""
        return as_programs(
            graph(
                """(float[batch,4] x) => (float[batch,4] y) {
                    c = Constant <value_float = 2.0> ()
                    r = Sqrt(c)
                    z = Add(x, r)
                    dead = Relu(z)
                    y = Identity(z) }"""
            ),
            graph(
                """(float[batch,4,6] x) => (float[batch,24] y) {
                    s = Shape <start = 1, end = 3> (x)
                    p = ReduceProd(s)
                    n = Concat <axis = 0> (minus, p)
                    y = Reshape(x, n) }""",
                minus=[-1],
            ),
            graph("(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }", unread=f32(1, 2)),
        )

    def near_misses(self) -> list[Program]:
        """Nothing constant; and a shape that follows the batch."""
        return as_programs(
            graph("(float[batch,4] x) => (float[batch,4] y) { y = Add(x, w) }", w=(4,)),
            graph(
                """(float[batch,4] x, float z) => (float[batch,4] y) {
                    s = Shape(x)
                    y = Expand(z, s) }"""
            ),
        )


def _settled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folded until no branch is known any more: what a branch computes may be the shape that the next If asks for."""
    folded = _tidied(_fold(model))
    for _ in range(ROUNDS):
        if not inline_known(folded):
            break
        folded = _tidied(_fold(folded))
    return folded


def _count(model: onnx.ModelProto) -> int:
    return sum(1 for _ in all_nodes(model.graph))


def _too_large(model: onnx.ModelProto) -> tuple[str, int] | None:
    """A node that makes more than LARGEST out of constants, or nobody knows how much; folding would run it."""
    fixed = {t.name for t in model.graph.initializer} - {v.name for v in model.graph.input}
    if not any(n.op_type in MAKERS for n in model.graph.node):
        return None
    if (long := _ranges.longest(model)) and 8 * long[1] > LARGEST_BYTES:
        return long
    inferred = _ranges.infer(skeleton(model), strict=False)
    shapes = {v.name: v.type.tensor_type.shape.dim for v in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph.node:
        if not any(a.HasField("g") for a in node.attribute) and all(not n or n in fixed for n in node.input):
            fixed |= set(node.output)
            dims = shapes.get(node.output[0])
            size = math.prod(d.dim_value if d.HasField("dim_value") else UNKNOWN for d in dims) if dims else 1
            if node.op_type in MAKERS and 8 * size > LARGEST_BYTES:
                return node.name or node.output[0], size
    return None


def _foldable(model: onnx.ModelProto) -> Iterator[bool]:
    """Signs of something to fold, cheap to look for; folding itself copies every weight."""
    stored = {t.name for t in model.graph.initializer} - {v.name for v in model.graph.input}
    fixed = stored - {t.name for t in outside.tensors(model)}
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    subgraphs = any(a.HasField("g") for node in model.graph.node for a in node.attribute)
    yield not subgraphs and not stored <= read
    shapes = {v.name: v.type.tensor_type.shape.dim for v in (*model.graph.input, *model.graph.value_info)}
    for node in model.graph.node:
        yield node.op_type in ("Identity", "Constant")
        yield node.op_type == "If" and node.input[0] in fixed
        yield node.op_type in ("Shape", "Size") and _reads_known_size(node, shapes)
        yield bool(node.input) and all(name in fixed or not name for name in node.input)
        yield not subgraphs and not any(name in read for name in node.output)


def _reads_known_size(node: onnx.NodeProto, shapes: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a dimension that a Shape node reads is a number, which a Gather behind it may pick."""
    bounds = {a.name: a.i for a in node.attribute}
    read = list(shapes.get(node.input[0], ()))[bounds.get("start", 0) : bounds.get("end")]
    return any(d.HasField("dim_value") for d in read)


def _without_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with plain inputs in place of defaults, which onnxsim would fold as if nobody could give others."""
    given = {v.name for v in model.graph.input}
    defaults = {t.name for t in model.graph.initializer if t.name in given}
    if not defaults:
        return model
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(t for t in model.graph.initializer if t.name not in defaults)
    return bare


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """By onnxsim; by onnxscript where that fails. Weights that lie outside the model take no part."""
    return _refilled(_folded(outside.hollow(_without_defaults(model))), model)


def _folded(source: onnx.ModelProto) -> onnx.ModelProto:
    try:
        import onnxsim

        # check_n=0, certify=False: the stage compares numbers itself. No fusions: each has a rule of its own here.
        with native("onnxsim", "folding constants"):
            folded, _ = onnxsim.simplify(
                source, check_n=0, perform_optimization=False, certify=False, tensor_size_threshold=LARGEST
            )
        assert isinstance(folded, onnx.ModelProto)
    except Exception:  # native code with its own view of ONNX: whatever it raises, the fallback takes over
        return _by_onnxscript(source)
    return folded


def _by_onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxscript.optimizer import optimize_ir

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the folder names tensors in place
    folded = ir.serde.deserialize_model(copy)
    optimize_ir(folded, num_iterations=1, onnx_shape_inference=False)
    return ir.serde.serialize_model(folded)


def _refilled(folded: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """The folded graph with the weights that took no part: those that lie outside."""
    away = outside.tensors(source)
    if away:
        names = {t.name for t in away} - {v.name for v in source.graph.input}
        kept = [value for value in folded.graph.input if value.name not in names]
        del folded.graph.input[:]
        folded.graph.input.extend(kept)
        folded.graph.initializer.extend(away)
    return folded


def _tidied(folded: onnx.ModelProto) -> onnx.ModelProto:
    """Constant nodes as initializers; no Identity, dead node or unread initializer."""
    model = ir.serde.deserialize_model(folded)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):  # in subgraphs an Identity may be what hands out a value from outside
        if node.op_type == "Identity" and node.domain == "" and not _hands_through(node):
            _bypass(node)
    return finish(model)


def _hands_through(node: ir.Node) -> bool:
    """Whether the Identity gives a graph output a value that already has a name outside."""
    value, result = node.inputs[0], node.outputs[0]
    maker = value.producer() if value is not None else None
    named_outside = value is None or maker is None or maker.graph is not node.graph or value.is_graph_output()
    return result.is_graph_output() and named_outside


def _bypass(node: ir.Node) -> None:
    """Readers take the Identity's input; a graph output keeps its name."""
    value, result = node.inputs[0], node.outputs[0]
    assert value is not None
    leaves = result.is_graph_output()
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    if leaves:
        name, result.name = result.name, f"{result.name}/identity"
        value.name, value.type, value.shape = name, value.type or result.type, value.shape or result.shape


def _restored(folded: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """The folded graph with the source's interface, producer and node metadata."""
    origin = {output: node for node in source.graph.node for output in node.output if output}
    for node in folded.graph.node:
        old = next((origin[o] for o in node.output if o in origin), None)
        if old is not None and old.op_type == node.op_type and not node.metadata_props:
            node.metadata_props.extend(old.metadata_props)
            node.name = node.name or old.name
    for ours, theirs in ((folded.graph.input, source.graph.input), (folded.graph.output, source.graph.output)):
        del ours[:]
        ours.extend(theirs)
    inputs, present = {v.name for v in source.graph.input}, {t.name for t in folded.graph.initializer}
    folded.graph.initializer.extend(t for t in source.graph.initializer if t.name in inputs and t.name not in present)
    folded.producer_name, folded.producer_version = source.producer_name, source.producer_version
    folded.graph.name = source.graph.name
    del folded.metadata_props[:]
    folded.metadata_props.extend(source.metadata_props)
    return folded


RULE = FoldConstants()
