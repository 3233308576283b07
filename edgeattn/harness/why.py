"""Why an engine is not faster: a profile read for what costs time beside the work that was asked for.

Every executed node is one thing only, so that the causes sum to the run: a product in the precision that was asked
for (the work); a product in another (``float-layers``, or ``unfused-layers`` where the graph quantizes it and the
engine did not follow); a pass from or to INT8; a change of layout; a conversion; what else attention does; the rest.
What the run takes beyond its nodes lies between them: calls, and handing work to threads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edgeattn.graphs import GraphIndex, attributes
from edgeattn.harness import advice
from edgeattn.report.timing import Cause, NodeTime, TimeReport

if TYPE_CHECKING:
    import onnx

    from edgeattn.harness.layers import Layer, Profile
    from edgeattn.program import Program

_NARROW = 16  # INT8 kernels take 16 channels at once
_NAMED = 5
_WORTH_TELLING = 0.005  # share of the run
_WORTH_WARNING = 0.02
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_DOT = {"dotprod", "i8mm"}


@dataclass(frozen=True)
class Setting:
    """What was asked of an engine, and what is known beside the profile.

    Attributes:
        target: ``openvino:cpu``. precision: asked for. threads: the engine's.
        kept: node -> why the quantizer left it in float, where a run recorded it.
        isa: instruction sets of this machine.
    """

    target: str
    precision: str
    threads: int
    kept: Mapping[str, str] = field(default_factory=dict)
    isa: Sequence[str] = ()


def explain(profile: Profile, program: Program, setting: Setting, top: int = 10) -> TimeReport:
    """Where the time goes, the causes ranked by what they cost.

    Args:
        profile: of the program, on the engine. setting: how it was asked. top: nodes and modules to list.
    """
    groups = _grouped(profile, program, setting)
    kinds: dict[str, float] = defaultdict(float)
    for (kind, why), found in groups.items():
        kinds[kind or why] += _sum(found)
    total = profile.total_ms
    between = total - sum(kinds.values())
    kinds["between-nodes"] = between if between > _WORTH_TELLING * total else 0.0
    inside = [layer for layer in profile.layers if layer.attention]
    ranked = sorted(profile.layers, key=lambda layer: -layer.milliseconds)
    macs = _macs_in(profile.layers)
    return TimeReport(
        total_ms=total,
        runs=profile.runs,
        threads=setting.threads,
        isa=tuple(setting.isa),
        kinds=_ranked(kinds),
        modules=_by((layer.module for layer in profile.layers), profile.layers, top),
        attention=_by((layer.attention for layer in inside), inside, None),
        attention_share=_sum(inside) / total if total else None,
        macs_in={precision: count / macs.total() for precision, count in macs.most_common()},
        nodes=tuple(_node(layer, total) for layer in ranked[:top]),
        causes=tuple(_causes(groups, kinds["between-nodes"], profile, setting)),
        warnings=tuple(_warnings(profile, setting)),
    )


_Groups = Mapping[tuple[str, str], list["Layer"]]


def _grouped(profile: Profile, program: Program, setting: Setting) -> _Groups:
    """Layers by the cause they are and why; those that are the work have no cause."""
    indices = {graph: GraphIndex(model) for graph, model in program.graphs.items()}
    groups: dict[tuple[str, str], list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        groups[_kind(layer, indices[layer.graph], setting)].append(layer)
    return groups


def _causes(groups: _Groups, between: float, profile: Profile, setting: Setting) -> list[Cause]:
    """By the time they cost; small ones only where they are layers, whose work counts as well."""
    total, macs = profile.total_ms, _macs_in(profile.layers).total() or 1
    found = [_cause(kind, why, layers, total, macs, setting) for (kind, why), layers in groups.items() if kind]
    if between:
        found.append(_between(between, total, len(profile.layers), setting))
    told = [c for c in found if (c.share or 0.0) >= _WORTH_TELLING or c.cause.endswith("-layers")]
    return sorted(told, key=lambda cause: cause.milliseconds or 0.0, reverse=True)


class _Stage(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def notes(self) -> Mapping[str, Any]: ...


def kept_float(stages: Sequence[_Stage]) -> dict[str, str]:
    """Node -> why the quantizer left it in float, as the last quantize stage wrote it down."""
    notes = next((stage.notes for stage in reversed(stages) if stage.name == "quantize"), {})
    kept = notes.get("kept_float", {})
    return {str(name): str(reason) for name, reason in kept.items()} if isinstance(kept, Mapping) else {}


def _kind(layer: Layer, index: GraphIndex, setting: Setting) -> tuple[str, str]:
    """A cause and why it is there; no cause, and what it is, for the work itself."""
    role = layer.executed.role
    if role == "product":
        asked = setting.precision
        if layer.executed.precision == asked or (asked == "fp32" and layer.executed.precision == "int8"):
            return "", f"products in {layer.executed.precision}"
        return _why_not(layer, index, setting)
    if role in _PASSES:
        return _PASSES[role], ""
    return ("attention", "") if layer.attention else ("other-nodes", "")


_PASSES = {"quantize": "quantize-passes", "layout": "layout", "convert": "conversions"}


def _why_not(layer: Layer, index: GraphIndex, setting: Setting) -> tuple[str, str]:
    """Why a product does not run in what was asked for: the quantizer's record, else what the graph shows."""
    ran = layer.executed.precision
    recorded = next((setting.kept[name] for name in (layer.node, *layer.origin) if name in setting.kept), "")
    if recorded:
        return "float-layers", f"{ran}: {recorded}"
    node = next((n for n in index.nodes if layer.node in (n.name, *n.output)), None)
    if setting.precision == "fp32":
        return "float-layers", f"{ran}: less than was asked for, by the graph's own types or by the engine"
    if node is None or setting.precision != "int8":
        return "float-layers", f"{ran}: the engine did not take it to {setting.precision}"
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return "float-layers", f"{ran}: a recurrent operator, which no scheme quantizes as it is"
    quantized = [_unpacked(index, name) for name in node.input[:2]]
    if all(quantized) or node.op_type in ("MatMulInteger", "ConvInteger"):
        return "unfused-layers", f"{ran}: the graph quantizes it, the engine did not follow"
    if len(quantized) > 1 and quantized[1]:
        return "float-layers", f"{ran}: its weights are stored in INT8, what it reads is float"
    shape = index.constant_shape(node.input[1]) if len(node.input) > 1 else None
    if shape is None:
        return "float-layers", f"{ran}: its weights are computed, not stored"
    if _narrow(node, shape):
        return "float-layers", f"{ran}: narrow, below {_NARROW} channels INT8 gains nothing"
    where = "inside attention, " if layer.attention else ""
    return "float-layers", f"{ran}: {where}no QuantizeLinear before it in the graph"


def _unpacked(index: GraphIndex, value: str) -> bool:
    node = index.producer.get(value)
    return node is not None and node.op_type == "DequantizeLinear"


def _narrow(node: onnx.NodeProto, shape: Sequence[int]) -> bool:
    first = node.op_type == "Conv" or bool(attributes(node).get("transB"))
    return len(shape) > 1 and (shape[0] if first else shape[-1]) < _NARROW


def _cause(kind: str, why: str, layers: list[Layer], total: float, macs: int, setting: Setting) -> Cause:
    ranked = sorted(layers, key=lambda layer: -layer.milliseconds)
    spent = _sum(layers)
    return Cause(
        cause=kind,
        why=why or advice.WHY[kind],
        do=advice.of(kind, why, setting.target),
        milliseconds=spent,
        share=spent / total if total else None,
        count=len(layers),
        nodes=tuple(dict.fromkeys(layer.node for layer in ranked))[:_NAMED],
        modules=tuple(dict.fromkeys(layer.module for layer in ranked if layer.module))[:_NAMED],
        macs_share=sum(layer.macs for layer in layers) / macs if kind.endswith("-layers") else None,
    )


def _between(spent: float, total: float, nodes: int, setting: Setting) -> Cause:
    return Cause(
        cause="between-nodes",
        why="calling the engine and handing work to threads; nodes too short for its clock are in it",
        do=advice.between(setting.threads),
        milliseconds=spent,
        share=spent / total if total else None,
        count=nodes,
    )


def _warnings(profile: Profile, setting: Setting) -> Iterable[str]:
    isa = set(setting.isa)
    if setting.precision == "int8" and isa & {"avx2", "avx512f"} and not isa & _VNNI:
        yield (
            "this CPU has no VNNI: INT8 products are added in 16 bits, which is slower and may saturate; "
            "compare with fp32 before shipping"
        )
    if setting.precision == "int8" and "neon" in isa and not isa & _DOT:
        yield "this CPU has no dot-product instructions: INT8 gains little here"
    slow = [layer for layer in profile.layers if layer.executed.kernel.startswith("ref")]
    if _sum(slow) > _WORTH_WARNING * profile.total_ms:
        names = ", ".join(dict.fromkeys(layer.node for layer in slow[:_NAMED]))
        yield f"reference kernels, which nobody has made fast, take {_sum(slow):.3g} ms: {names}"


def _node(layer: Layer, total: float) -> NodeTime:
    return NodeTime(
        graph=layer.graph,
        node=layer.node,
        op=layer.executed.op,
        precision=layer.executed.precision,
        kernel=layer.executed.kernel,
        milliseconds=layer.milliseconds,
        share=layer.milliseconds / total if total else None,
        macs=layer.macs,
        module=layer.module,
        origin=layer.origin,
        attention=layer.attention,
    )


def _by(keys: Iterable[str], layers: Sequence[Layer], top: int | None) -> dict[str, float | None]:
    """Milliseconds by key, the largest first; without the layers that have none."""
    found: dict[str, float] = defaultdict(float)
    for key, layer in zip(keys, layers, strict=True):
        if key:
            found[key] += layer.milliseconds
    return _ranked(found, top)


def _ranked(spent: Mapping[str, float], top: int | None = None) -> dict[str, float | None]:
    return dict(sorted(spent.items(), key=lambda item: item[1], reverse=True)[:top])


def _macs_in(layers: Sequence[Layer]) -> Counter[str]:
    found: Counter[str] = Counter()
    for layer in layers:
        if layer.macs:
            found[layer.executed.precision] += layer.macs
    return found


def _sum(layers: Iterable[Layer]) -> float:
    return sum(layer.milliseconds for layer in layers)
