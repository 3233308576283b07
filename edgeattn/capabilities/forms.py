"""forms: single operators in a form that the parser does not read, such as an attribute it does not know.

One row a restriction: the operator, the families it holds for, and a question to the node. They were found by asking
the parser about ONNX's node tests; TensorRT's own list (docs/operators.md) says most of them for every release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View

_DOC = "onnx-tensorrt docs/operators.md, restrictions; measured with tensorrt_rtx 1.7.1"
_FLOATS = ("float", "float16", "bfloat16", "double")
_WAYS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


@dataclass(frozen=True)
class Form:
    """A restriction: ``broken(node, view)`` says what is wrong, or nothing."""

    ops: tuple[str, ...]
    broken: Callable[[Node, View], str]
    hint: str
    families: tuple[str, ...] = ("tensorrt", "tensorrt-rtx")
    source: str = _DOC


def _attribute(name: str, allowed: tuple[object, ...], default: object) -> Callable[[Node, View], str]:
    def broken(node: Node, view: View) -> str:
        value = node.attributes.get(name, default)
        return "" if value in allowed else f"{node.op} with {name} = {value}"

    return broken


def _one_output(node: Node, view: View) -> str:
    more = len(node.outputs()) > 1
    return f"{node.op} gives {len(node.outputs())} outputs; only the first exists there" if more else ""


def _float_modulo(node: Node, view: View) -> str:
    kind = view.type_of(node.input(0))
    return f"Mod of {kind.upper()} without fmod" if kind in _FLOATS and not node.attributes.get("fmod") else ""


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
    return "a float Range whose limits the caller gives" if kind in _FLOATS and given else ""


def _row_times_stack(node: Node, view: View) -> str:
    left, right = view.shape_of(node.input(0)), view.shape_of(node.input(1))
    stack = left is not None and right is not None and len(left) == 1 and len(right) > 2
    return "MatMul of a vector with a stack of matrices" if stack else ""


def _cache_rank(node: Node, view: View) -> str:
    shape = view.shape_of(node.input(0))
    return f"TensorScatter into a cache of {len(shape)} dimensions, not 4" if shape and len(shape) != 4 else ""


def _limited_bytes(node: Node, view: View) -> str:
    limits = node.input(1) or node.input(2)
    return "Clip of INT8 with limits" if limits and view.type_of(node.input(0)) == "int8" else ""


def _stored_places(node: Node, view: View) -> str:
    return "TensorScatter to stored places" if node.input(2) and view.known(node.input(2)) else ""


def _string_constant(node: Node, view: View) -> str:
    for name in ("sparse_value", "value_string", "value_strings"):
        if name in node.attributes:
            return f"a Constant with {name}"
    return ""


def _uneven_split(node: Node, view: View) -> str:
    parts, shape = node.attributes.get("num_outputs"), view.shape_of(node.input(0))
    size = shape[node.attributes.get("axis", 0)] if shape else None
    if not parts or not isinstance(size, int):
        return ""
    each = -(-size // parts)
    return f"Split of {size} into {parts}, whose last part is empty" if each * (parts - 1) > size else ""


FORMS: tuple[Form, ...] = (
    Form(("LayerNormalization",), _one_output, "compute mean and deviation with ReduceMean"),
    Form(("Mod",), _float_modulo, "set fmod=1, or cast to INT64"),
    Form(("ScatterND",), _attribute("reduction", ("none",), "none"), "add the old values before, with GatherND"),
    Form(
        ("ScatterElements",),
        _attribute("reduction", ("none",), "none"),
        "add the old values before, with GatherElements",
        ("tensorrt-rtx",),
        "measured with tensorrt_rtx 1.7.1: its plugin is not in this edition",
    ),
    Form(("Resize",), _attribute("coordinate_transformation_mode", _WAYS, "half_pixel"), f"use {_WAYS[0]} or another"),
    Form(("Resize",), _attribute("antialias", (0,), 0), "blur before resizing"),
    Form(("Resize",), _attribute("keep_aspect_ratio_policy", ("stretch",), "stretch"), "compute the sizes outside"),
    Form(("Resize", "Upsample"), _scales_given, "store the scales, or give sizes"),
    Form(("BatchNormalization",), _attribute("training_mode", (0,), 0), "export the model in eval mode"),
    Form(("Dropout",), _training, "export the model in eval mode"),
    Form(("Range",), _float_range, "count in INT64 and cast"),
    Form(("MatMul",), _row_times_stack, "unsqueeze the vector first"),
    Form(("Clip",), _limited_bytes, "limit before quantizing"),
    Form(("TensorScatter",), _stored_places, "give the places as an input", ("tensorrt-rtx",)),
    Form(("RandomUniformLike", "RandomNormalLike"), _attribute("dtype", (1, 10, 16), 1), "draw in FLOAT and cast"),
    Form(("TensorScatter",), _cache_rank, "unsqueeze the cache to 4 dimensions"),
    Form(("TensorScatter",), _attribute("mode", ("linear",), "linear"), "use a linear cache"),
    Form(("Constant",), _string_constant, "store numbers"),
    Form(("Split",), _uneven_split, "give the sizes of the parts"),
    Form(("LSTM", "GRU", "RNN"), _attribute("layout", (0,), 0), "export with layout 0 and a Transpose", ("tensorrt",)),
    Form(("LSTM", "GRU", "RNN"), _two_ways, "use two layers, one each way"),
    Form(("LSTM",), _attribute("input_forget", (0,), 0), "use separate gates"),
    Form(
        ("RNN", "GRU", "LSTM"),
        _attribute("layout", (0,), 0),
        "export with layout 0 and a Transpose",
        ("onnxruntime",),
        "measured with onnxruntime 1.31.1",
    ),
    Form(
        ("GridSample",),
        lambda node, view: "GridSample in three dimensions" if len(view.shape_of(node.input(0)) or ()) == 5 else "",
        "sample slice by slice",
        ("tensorrt", "openvino"),
        "onnx-tensorrt docs/operators.md; measured with openvino 2026.4.1",
    ),
    Form(
        ("Pad",),
        _attribute("mode", ("constant", "edge", "reflect"), "constant"),
        "concatenate the wrapped parts",
        ("openvino",),
        "measured with openvino 2026.4.1",
    ),
    Form(
        ("Resize",),
        _attribute("coordinate_transformation_mode", _WAYS, "half_pixel"),
        f"use {_WAYS[0]} or another",
        ("openvino",),
        "measured with openvino 2026.4.1",
    ),
    Form(("Mod",), _float_modulo, "set fmod=1, or cast to INT64", ("openvino",), "measured with openvino 2026.4.1"),
)


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Every row of ``FORMS`` against every node it is about."""
    family = target.engine.family
    for node in view.nodes:
        for form in FORMS if node.standard else ():
            if node.op in form.ops and family in form.families and (what := form.broken(node, view)):
                reason = f"{what}, which {target.engine.title} does not read"
                yield Found(node.name, reason, form.hint, "", form.source, node.module)


CHECK = find
