"""The values that flow through edgeattn: small, frozen, and free of any engine.

A *Program* is one or more ONNX graphs and how they feed each other. A CNN is ``{"main"}``; a translator is
``{"encoder", "step"}`` whose wiring says which encoder outputs the step receives once and which of its own
outputs it receives back after every step. Because wiring is data, one decode loop serves every model and engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array: TypeAlias = np.ndarray[Any, Any]
    Arrays: TypeAlias = Mapping[str, Array]

# What a user's input may hold: the types that every engine here takes.
INPUT_DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output.

    Attributes:
        name: tensor name, unique in its graph.
        dtype: numpy name: ``float32``, ``int64``, ``bool`` …
        shape: ints, and names for dynamic dimensions, e.g. ``("batch", 3, 224, 224)``.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Stop:
    """How an autoregressive program feeds tokens back and when it ends.

    Attributes:
        token: the step input that receives the last token, ``"step.token"`` (int64, shape ``(batch,)``).
        emits: the step output whose argmax over the last axis is the next token, ``"step.logits"``.
        start: first token fed, where nothing else decides it. end: token that ends a sequence.
        max_steps: upper bound on the tokens of a sequence.
        first: the output whose argmax over the last axis is the first token, ``"prefill.logits"``: a prompt's
            continuation starts with what the prompt predicts. Empty where decoding starts with ``start``.
    """

    token: str
    emits: str
    start: int
    end: int
    max_steps: int
    first: str = ""


@dataclass(frozen=True)
class QdqDialect:
    """What an engine needs of a quantized graph to run it in INT8. The default is what every engine accepts.

    Attributes:
        unsigned: activations are UINT8: zero point 0 and scale max/255 where a value cannot be negative, so that the
            quantizer's saturation at 0 replaces the ReLU; zero point 128 and the symmetric scale elsewhere.
        signed_elsewhere: beside ``unsigned``: a value that may be negative is INT8 with zero point 0 after all.
        requantize_conv_outputs: quantize what each convolution writes, even where its reader computes in float:
            the engine runs a convolution in INT8 only between two quantized tensors.
        bias_apart: a Gemm whose output stays in float gets its bias from an Add behind it: the engine adds biases in
            INT32, which is only right before quantizing again, and runs such a Gemm in float.
        gates_as_scales: for one image of a known size, attention gates multiply the scales of quantized values: the
            engine takes scales that are computed, and float passes over whole maps are what its gates cost.
        light_gates: attention gates read and compute less (``quantize/_light``): each pass over a map, and each lane
            that two planes leave empty, costs the engine more than the arithmetic.
        strides_up: the strides of pointwise convolutions move up (``strides.py``): the engine would move them by
            itself, and then compute such a convolution in float.
        shortcuts_handed_over: shortcuts past a gate's product are copied in INT8 (``quantize/_shortcuts``): the engine
            would write them in FP32 beside.
        dynamic: how it quantizes activations while it runs: ``operators`` (DynamicQuantizeLinear and MatMulInteger),
            ``engine`` (by itself, where a weight alone is INT8), or nothing: it cannot.
        group: for ``engine``, how many values along a layer's depth share a scale; a depth that is no multiple of it
            would be computed in float.
        unpacks_at_once: a stored weight behind a DequantizeLinear is unpacked once, when the graph is opened, unless
            it is multiplied packed. Otherwise it would be at every run, and is given as arithmetic on constants.
    """

    unsigned: bool = False
    signed_elsewhere: bool = False
    requantize_conv_outputs: bool = False
    bias_apart: bool = False
    gates_as_scales: bool = False
    light_gates: bool = False
    strides_up: bool = False
    shortcuts_handed_over: bool = False
    dynamic: str = "operators"
    group: int = 1
    unpacks_at_once: bool = True


@dataclass(frozen=True)
class Wiring:
    """Edges between graphs, as ``{"graph.input": "graph.output"}``.

    Attributes:
        feeds: values handed over once, before the first step.
        state: values the step hands to itself after every step; a state that is not in ``feeds`` starts at zero.
        stop: token feedback and the end condition.

    Program inputs that no edge feeds are shared by name: an input ``mask`` of two graphs is one program input.
    """

    feeds: Mapping[str, str]
    state: Mapping[str, str]
    stop: Stop

    @property
    def loop(self) -> str:
        """Name of the graph that runs once per step."""
        return self.stop.token.split(".", 1)[0]


@dataclass(frozen=True)
class Case:
    """One set of inputs with what PyTorch made of them.

    Attributes:
        name: what the inputs exercise: ``normal-b2``, ``zeros``, ``masked-row``, ``real`` …
        feeds: program inputs.
        tokens: teacher-forced tokens ``(batch, steps)`` int64 for wired programs, else None.
        outputs: what the oracle computed in the model's own dtype (step outputs stacked on axis 0).
        golden: the same in float64, or empty where no float64 oracle exists.
        rounded: as ``golden``, with every weight moved by a unit in its last place (float32): how far from
            ``golden`` an implementation may come that folds or merges weights and rounds them once more.
    """

    name: str
    feeds: Arrays
    tokens: Array | None = None
    outputs: Arrays = field(default_factory=dict)
    golden: Arrays = field(default_factory=dict)
    rounded: Arrays = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many samples its feeds hold on their first axis; 1 where no input has one."""
        return next((len(value) for value in self.feeds.values() if value.ndim), 1)


@dataclass(frozen=True)
class Reference:
    """The oracle of every later stage: seeded inputs and what ``origin`` computed from them."""

    origin: str  # "pytorch eager" or "source graph"
    cases: tuple[Case, ...]

    @property
    def typical(self) -> Case:
        """The case that stands for real use: the first with real data, else the first of all."""
        return next((case for case in self.cases if case.name.startswith("real")), self.cases[0])


@dataclass(frozen=True)
class StageRecord:
    """What one stage did to a program; ``notes`` is JSON-able (rule counts, options, versions)."""

    name: str
    seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True)
class Program:
    """Graphs, their wiring, the oracle they are judged by, and the stages they went through.

    Attributes:
        graphs: ONNX graphs by name. wiring: edges between them.
        reference: what the program is judged by. history: what every stage did.
        ir: graph -> OpenVINO's ``(xml, bin)``, where a tool made the program for OpenVINO alone: it runs in place of
            the graphs, which are those that it was made from.
    """

    graphs: Mapping[str, onnx.ModelProto]
    wiring: Wiring | None = None
    reference: Reference | None = None
    history: tuple[StageRecord, ...] = ()
    ir: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def after(self, record: StageRecord, **changes: Any) -> Program:
        """A new Program with ``changes`` applied and ``record`` appended to the history.

        An IR was made from the graphs as they were: with other graphs it is dropped, unless it is among the changes.
        """
        if "graphs" in changes:
            changes.setdefault("ir", {})
        return replace(self, **changes, history=(*self.history, record))

    def digest(self) -> str:
        """sha256 over the deterministic serialisation of every graph, and over weights that lie outside it."""
        from edgeattn import outside

        sha = hashlib.sha256()
        for name in sorted(self.graphs):
            sha.update(name.encode())
            model = self.graphs[name]
            if outside.tensors(model):
                sha.update(outside.digest(model))
            else:
                sha.update(model.SerializeToString(deterministic=True))
            for part in self.ir.get(name, ()):
                sha.update(part)
        return sha.hexdigest()


def free_inputs(inputs: Mapping[str, Iterable[TensorSpec]], wiring: Wiring | None) -> list[TensorSpec]:
    """Inputs of ``{graph: inputs}`` that no edge of the wiring feeds, one per name: what the user gives."""
    wired = {*wiring.feeds, *wiring.state, wiring.stop.token} if wiring else set()
    free = {s.name: s for graph, specs in inputs.items() for s in specs if f"{graph}.{s.name}" not in wired}
    return list(free.values())


@runtime_checkable
class Session(Protocol):
    """One compiled graph, open. ``run`` maps input names to arrays and returns output names to arrays."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; raises BadInput for a missing or ill-shaped feed, EngineFailed if the engine does."""
        ...


class Sequence(Session, Protocol):
    """A sequence in progress, with a state that the engine keeps."""

    def kept(self) -> dict[str, Array]:
        """The state after the last step, by the names of the outputs that it replaces."""
        ...


@runtime_checkable
class Stateful(Session, Protocol):
    """A compiled step that keeps its state inside the engine: it neither takes nor gives it.

    Attributes:
        states: what it keeps, by the names of the inputs that it replaces.
    """

    states: tuple[TensorSpec, ...]

    def begin(self, state: Arrays) -> Sequence:
        """A sequence of its own that starts from ``state``; several may go on beside each other."""
        ...


Opener: TypeAlias = Callable[[Program], Mapping[str, Session]]
"""Opens every graph of a program, ready to run."""
