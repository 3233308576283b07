"""attention: the Attention operator, in the form that TensorRT has a kernel for.

Its parser takes Q, K and V of equal sizes, no past, no softcap, one output, and a mask or causality but not both; a
length of the keys without their padding it drops, and would answer otherwise. The builder of its RTX edition further
wants a fused kernel for the very shape: one for FP16 and BF16, and since 1.7 one for plain attention of three
dimensions and fixed sizes, in any float.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View

_SOURCE = "onnx-tensorrt docs/operators.md 10.15, Attention; measured with tensorrt_rtx 1.7.1"
_HINT = "spell it out: edgeattn doctor --fix, or export with --opset 18"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """What keeps an Attention node from being read."""
    if not target.engine.nvidia:
        return
    for node in view.nodes:
        if node.standard and node.op == "Attention":
            for reason in _reasons(view, node, target):
                yield Found(node.name, reason, _HINT, "expand:Attention", _SOURCE, node.module)


def _reasons(view: View, node: Node, target: Target) -> Iterator[str]:
    if len(node.outputs()) > 1:
        yield "Attention gives more than its first output"
    if node.input(4) or node.input(5):
        yield "Attention takes a past"
    if node.attributes.get("softcap"):
        yield "Attention with softcap"
    if "softmax_precision" in node.attributes:
        yield "Attention with a precision of its own for the softmax"
    if node.input(3) and node.attributes.get("is_causal"):
        yield "Attention with a mask and causality together"
    keys, values = view.shape_of(node.input(1)), view.shape_of(node.input(2))
    if keys and values and keys != values:
        yield f"Attention with keys {list(keys)} and values {list(values)} of different sizes"
    if node.input(6):
        yield "Attention with nonpad_kv_seqlen, which the parser drops: padding would be attended to"
    if target.engine.family == "tensorrt-rtx" and not (_plain(view, node) and target.engine.since("1.7")):
        yield from _without_kernel(view, node)


def _plain(view: View, node: Node) -> bool:
    """Three dimensions of fixed sizes, as many heads everywhere, no mask, no causality, many queries."""
    shapes = [view.shape_of(node.input(place)) for place in range(3)]
    sized = all(s is not None and len(s) == 3 and all(isinstance(d, int) for d in s) for s in shapes)
    heads = {node.attributes.get(name) for name in ("q_num_heads", "kv_num_heads")}
    masked = node.input(3) or node.attributes.get("is_causal")
    return sized and len(heads) == 1 and not masked and shapes[0] is not None and shapes[0][1] != 1


def _without_kernel(view: View, node: Node) -> Iterator[str]:
    """Why the kernel for FP16 and BF16 does not fit."""
    kind, size = view.type_of(node.input(0)), _head(view, node)
    if kind not in ("float16", "bfloat16"):
        yield f"Attention in {kind.upper() or 'an unknown type'}; its kernels are for FP16 and BF16"
    elif not isinstance(size, int) or size % 8 or not 16 <= size <= 256:
        yield f"Attention with heads of {size}; its kernels are for 16 to 256, in steps of 8"
    if (queries := view.shape_of(node.input(0))) and queries[-2] == 1:
        yield "Attention of a single query, which it has no kernel for"


def _head(view: View, node: Node) -> int | str | None:
    """The size of a head of the keys: their last dimension, which three-dimensional ones share between heads."""
    keys = view.shape_of(node.input(1))
    if not keys or len(keys) != 3:
        return keys[-1] if keys else None
    heads = node.attributes.get("kv_num_heads", 0)
    return keys[-1] // heads if isinstance(keys[-1], int) and heads else keys[-1]


CHECK = find
