"""forms: single operators in a form that the parser does not read, such as an attribute it does not know.

One row a restriction: the operator, the families it holds for, and a question to the node. They were found by asking
the parser about ONNX's node tests; TensorRT's own list (docs/operators.md) says most of them for every release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._form import (
    FLOATS,
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
from edgeattn.capabilities._view import Node, View


def _one_output(node: Node, view: View) -> str:
    more = len(node.outputs()) > 1
    return f"{node.op} gives {len(node.outputs())} outputs; only the first exists there" if more else ""


def _training(node: Node, view: View) -> str:
    if node.input(2) and view.constant(node.input(2)):
        return "Dropout in training mode"
    return "Dropout whose mode is computed" if node.input(2) and node.input(2) not in view.initializers else ""


def _two_ways(node: Node, view: View) -> str:
    named = node.attributes.get("activations") or []
    names = [n.decode() if isinstance(n, bytes) else n for n in named]
    half = len(names) // 2
    twice = node.attributes.get("direction") == "bidirectional"
    return f"a bidirectional {node.op} with two sets of activations" if twice and names[:half] != names[half:] else ""


def _scales_given(node: Node, view: View) -> str:
    name = node.input(2 if node.op == "Resize" and view.opset > 10 else 1)
    return f"the scales of {node.op} are given or computed while it runs" if name and not view.stored(name) else ""


def _float_range(node: Node, view: View) -> str:
    kind = view.type_of(node.input(0))
    given = {value.name for value in view.inputs} & set(node.proto.input)
    if kind in ("float16", "bfloat16"):
        return f"Range of {kind.upper()}"
    return "a float Range whose limits the caller gives" if kind in FLOATS and given else ""


def _scalar(node: Node, view: View) -> str:
    return f"{node.op} of a scalar" if view.shape_of(node.input(0)) == () else ""


def _row_times_stack(node: Node, view: View) -> str:
    left, right = view.shape_of(node.input(0)), view.shape_of(node.input(1))
    stack = left is not None and right is not None and len(left) == 1 and len(right) > 2
    return "MatMul of a vector with a stack of matrices" if stack else ""


def _cache_rank(node: Node, view: View) -> str:
    shape = view.shape_of(node.input(0))
    return f"TensorScatter into a cache of {len(shape)} dimensions, not 4" if shape and len(shape) != 4 else ""


def _bytes(node: Node, view: View) -> str:
    places = len(node.proto.input) > 1  # whether filled or left empty
    return "Clip of INT8 with places for its limits" if places and view.type_of(node.input(0)) == "int8" else ""


def _stored_places(node: Node, view: View) -> str:
    return "TensorScatter to stored places" if node.input(2) and view.known(node.input(2)) else ""


def _integer_power(place: int) -> Callable[[Node, View], str]:
    def broken(node: Node, view: View) -> str:
        kind = view.type_of(node.input(place))
        return f"Pow with {('a base', 'an exponent')[place]} of {kind.upper()}" if kind.startswith("int") else ""

    return broken


def _rich_einsum(node: Node, view: View) -> str:
    equation = str(node.attributes.get("equation", "")).replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    twice = any(len(set(term)) < len(term) for term in terms)
    return f"Einsum '{equation}' with an ellipsis or a diagonal" if "..." in equation or twice else ""


def _all_ones(node: Node, view: View) -> str:
    shape = view.shape_of(node.input(0))
    sized = shape is not None and all(isinstance(dim, int) for dim in shape)
    return "" if sized or node.input(1) or "axes" in node.attributes else "Squeeze without axes of dynamic dimensions"


def _by_channel(node: Node, view: View) -> str:
    return "GroupNormalization with a scale for each channel" if view.opset >= 21 else ""


def _integer_convolution(node: Node, view: View) -> str:
    made = [view.producers.get(name) for name in node.proto.input[:2]]
    packed = all(n is not None and n.op == "DequantizeLinear" and view.type_of(n.input(0)) == "int8" for n in made)
    return f"{node.op} in INT8" if packed else ""


_CHANGES = "onnx-tensorrt docs/Changelog.md"
_TRT, _RTX = ("tensorrt",), ("tensorrt-rtx",)
_ASKED = "measured with tensorrt_rtx"
FORMS: tuple[Form, ...] = (
    Form(("LayerNormalization",), _one_output, "compute mean and deviation with ReduceMean"),
    Form(("Mod",), float_modulo, "set fmod=1, or cast to INT64"),
    Form(("ScatterND",), attribute("reduction", ("none",), "none"), "add the old values before, with GatherND"),
    Form(
        ("ScatterElements",),
        attribute("reduction", ("none",), "none"),
        "add the old values before, with GatherElements",
        ("tensorrt-rtx",),
        "measured with tensorrt_rtx 1.7.1: its plugin is not in this edition",
    ),
    Form(("Resize",), attribute("coordinate_transformation_mode", WAYS, "half_pixel"), f"use {WAYS[0]} or another"),
    Form(("Resize",), attribute("antialias", (0,), 0), "blur before resizing"),
    Form(("Resize",), attribute("keep_aspect_ratio_policy", ("stretch",), "stretch"), "compute the sizes outside"),
    Form(("Resize", "Upsample"), _scales_given, "store the scales, or give sizes"),
    Form(("BatchNormalization",), attribute("training_mode", (0,), 0), "export the model in eval mode"),
    Form(("Dropout",), _training, "export the model in eval mode"),
    Form(("Range",), _float_range, "count in INT64 and cast"),
    Form(REDUCTIONS, _scalar, "leave the reduction out"),
    Form(("MatMul",), _row_times_stack, "unsqueeze the vector first"),
    Form(("Clip",), _bytes, "limit before quantizing"),
    Form(("TensorScatter",), _stored_places, "give the places as an input", ("tensorrt-rtx",)),
    Form(("RandomUniformLike", "RandomNormalLike"), attribute("dtype", (1, 10, 16), 1), "draw in FLOAT and cast"),
    Form(("TensorScatter",), _cache_rank, "unsqueeze the cache to 4 dimensions"),
    Form(("TensorScatter",), attribute("mode", ("linear",), "linear"), "use a linear cache"),
    Form(("Constant",), without("sparse_value", "value_string", "value_strings"), "store numbers"),
    Form(("Split",), uneven_split, "give the sizes of the parts"),
    Form(("LSTM", "GRU", "RNN"), attribute("layout", (0,), 0), "export with layout 0 and a Transpose", ("tensorrt",)),
    Form(("LSTM", "GRU", "RNN"), _two_ways, "use two layers, one each way"),
    Form(("LSTM",), attribute("input_forget", (0,), 0), "use separate gates"),
    Form(
        ("ScatterElements",),
        attribute("reduction", ("none",), "none"),
        "add the old values before",
        _TRT,
        f"{_CHANGES}, 10.0 EA",
        (10, 0),
    ),
    Form(
        ("Pad",),
        attribute("mode", ("constant", "edge", "reflect"), "constant"),
        "concatenate the parts",
        _TRT,
        f"{_CHANGES}, 10.0 EA",
        (10, 0),
    ),
    Form(("Pow",), _integer_power(1), "cast the exponent to FLOAT", _TRT, f"{_CHANGES}, 10.8", (10, 8)),
    Form(("Pow",), _integer_power(0), "cast the base to FLOAT", _TRT, f"{_CHANGES}, 10.12", (10, 12)),
    Form(
        ("Einsum",),
        _rich_einsum,
        "edgeattn rewrite --only lower_einsum",
        _TRT,
        f"{_CHANGES}, 10.12",
        (10, 12),
        "rewrite:lower_einsum",
    ),
    Form(
        ("GroupNormalization",),
        _by_channel,
        "export with --opset 18",
        _TRT,
        f"{_CHANGES}, 10.9",
        (10, 9),
        "expand:GroupNormalization",
    ),
    Form(("Squeeze",), _all_ones, "name the axes", _TRT, "NVIDIA/TensorRT release notes, 11.5", (11, 5)),
    Form(
        ("Conv", "ConvTranspose"),
        _integer_convolution,
        "keep convolutions in FP16",
        _RTX,
        f"{_ASKED} 1.4 to 1.7",
        (1, 7),
    ),
    Form(("GridSample",), volume, "sample slice by slice", _RTX, f"{_ASKED} 1.4 to 1.7", (1, 6)),
    Form(
        ("GridSample",), volume, "sample slice by slice", ("tensorrt",), "NVIDIA/TensorRT release notes, 11.2", (11, 2)
    ),
)


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Every row of ``FORMS``."""
    yield from ask(FORMS, view, target)


CHECK = find
