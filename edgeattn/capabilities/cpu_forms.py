"""cpu_forms: single operators in a form that OpenVINO's frontend or ONNX Runtime does not read.

As ``forms`` is for TensorRT: found by asking both about ONNX's node tests and planted graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._form import (
    REDUCTIONS,
    WAYS,
    Form,
    ask,
    attribute,
    float_modulo,
    uneven_split,
    volume,
    without,
)
from edgeattn.capabilities._view import Node, View, bodies

_OV, _OV_SOURCE = ("openvino",), "measured with openvino 2026.4.1"
_ORT, _ORT_SOURCE = ("onnxruntime",), "measured with onnxruntime 1.31.1"


def _rank_of_axes(node: Node, view: View) -> str:
    if not node.input(1) or view.known(node.input(1)) or node.attributes.get("keepdims", 1):
        return ""
    one = view.shape_of(node.input(1)) == (1,)
    return "" if one else f"{node.op} over several axes that are given, without keepdims"


def _given_axes(node: Node, view: View) -> str:
    names = [node.input(place) for place in (3, 1, 2)]
    mixed = names[0] and not view.known(names[0]) and all(map(view.known, names[1:]))
    return "Slice at stored places along axes that are given" if mixed else ""


def _captures(node: Node, view: View) -> str:
    for body in bodies(node.proto):
        inner = (
            {v.name for v in body.input} | {t.name for t in body.initializer} | {o for n in body.node for o in n.output}
        )
        outer = sorted({n for child in body.node for n in child.input if n} - inner)
        if outer:
            return f"{node.op} whose body reads '{outer[0]}' from outside"
    return ""


def _quantizes_to(*kinds: str) -> Callable[[Node, View], str]:
    def broken(node: Node, view: View) -> str:
        kind = view.type_of(node.proto.output[0])
        unpacked = any(reader.op == "DequantizeLinear" for reader in view.consumers.get(node.proto.output[0], ()))
        return f"{node.op} to {kind.upper()}" if kind in kinds and (unpacked or kind == "float4e2m1") else ""

    return broken


def _float8_zero(node: Node, view: View) -> str:
    zero = view.constant(node.input(2)) if node.input(2) else None
    kind = view.type_of(node.input(2))
    return (
        f"a zero point of {kind.upper()} that is not 0"
        if zero is not None and kind.startswith("float8") and zero.astype(float).any()
        else ""
    )


def _blocks(node: Node, view: View) -> str:
    return f"{node.op} in blocks" if node.attributes.get("block_size") else ""


def _mismatched_gather(node: Node, view: View) -> str:
    data, places, axis = view.shape_of(node.input(0)), view.shape_of(node.input(1)), node.attributes.get("axis", 0)
    if not data or not places or len(data) != len(places):
        return ""
    pairs = [(d, p) for i, (d, p) in enumerate(zip(data, places, strict=True)) if i != axis % len(data)]
    differs = any(isinstance(d, int) and isinstance(p, int) and d != p for d, p in pairs)
    return f"GatherElements of {list(data)} at {list(places)}" if differs else ""


def _deep_columns(node: Node, view: View) -> str:
    shape = view.shape_of(node.input(1))
    return "Col2Im in three dimensions" if shape and isinstance(shape[0], int) and shape[0] > 2 else ""


def _unsigned_power(node: Node, view: View) -> str:
    kind = view.type_of(node.input(1))
    return f"Pow with an exponent of {kind.upper()}" if kind.startswith("uint") else ""


def _vector_limits(node: Node, view: View) -> str:
    return "Range with limits that are no scalars" if any(view.shape_of(n) for n in node.proto.input) else ""


def _two_types(node: Node, view: View) -> str:
    value, scale = view.type_of(node.input(0)), view.type_of(node.input(1))
    return (
        f"QuantizeLinear of {value.upper()} by a scale of {scale.upper()}" if value and scale and value != scale else ""
    )


FORMS: tuple[Form, ...] = (
    Form(("GridSample",), volume, "sample slice by slice", _OV, _OV_SOURCE),
    Form(
        ("Pad",),
        attribute("mode", ("constant", "edge", "reflect"), "constant"),
        "concatenate the parts",
        _OV,
        _OV_SOURCE,
    ),
    Form(
        ("Resize",), attribute("coordinate_transformation_mode", WAYS, "half_pixel"), "use half_pixel", _OV, _OV_SOURCE
    ),
    Form(("Mod",), float_modulo, "set fmod=1, or cast to INT64", _OV, _OV_SOURCE),
    Form(("NegativeLogLikelihoodLoss",), without("ignore_index"), "mask the loss outside", _OV, _OV_SOURCE),
    Form(REDUCTIONS, _rank_of_axes, "store the axes", _OV, _OV_SOURCE),
    Form(("Slice",), _given_axes, "store the axes", _OV, _OV_SOURCE),
    Form(("Scan",), _captures, "give it as a state of the Scan", _OV, _OV_SOURCE),
    Form(("Split",), uneven_split, "give the sizes of the parts", _OV, _OV_SOURCE),
    Form(("QuantizeLinear",), _quantizes_to("int16", "uint16", "float4e2m1"), "quantize to INT8", _OV, _OV_SOURCE),
    Form(("QuantizeLinear", "DequantizeLinear"), _float8_zero, "use a zero point of 0", _OV, _OV_SOURCE),
    Form(("QuantizeLinear",), _blocks, "a scale for each channel instead", _OV, _OV_SOURCE),
    Form(("GatherElements",), _mismatched_gather, "slice the data to the size of the places first", _OV, _OV_SOURCE),
    Form(("Col2Im",), _deep_columns, "fold two dimensions at a time", _OV, _OV_SOURCE),
    Form(
        ("RandomUniformLike", "RandomNormalLike"),
        attribute("dtype", (1, 10, 16), 1),
        "draw in FLOAT and cast",
        _OV,
        _OV_SOURCE,
    ),
    Form(
        ("Attention",), without("left_window_size", "right_window_size"), "give the window as a mask", _ORT, _ORT_SOURCE
    ),
    Form(
        ("LSTM", "GRU", "RNN"), attribute("layout", (0,), 0), "export with layout 0 and a Transpose", _ORT, _ORT_SOURCE
    ),
    Form(
        ("StringNormalizer",),
        attribute("case_change_action", ("NONE",), "NONE"),
        "change case outside",
        _ORT,
        f"{_ORT_SOURCE}, where the locale it wants was not installed",
    ),
    Form(("Pow",), _unsigned_power, "cast the exponent to FLOAT", _ORT, _ORT_SOURCE),
    Form(("Range",), _vector_limits, "squeeze them", _ORT, _ORT_SOURCE),
    Form(("QuantizeLinear",), _two_types, "give the scale in the type of what is quantized", _ORT, _ORT_SOURCE),
)


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Every row of ``FORMS``."""
    yield from ask(FORMS, view, target)


CHECK = find
