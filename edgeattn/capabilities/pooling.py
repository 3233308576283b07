"""pooling: windows are two- or three-dimensional, without dilation, and small enough.

A pooling window over a whole feature map (AdaptiveMaxPool2d(1) exported at a fixed size) runs into the limit of the
engine and locks the input size; as a global pool it does neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View

_POOLS = ("MaxPool", "AveragePool", "LpPool")
_PAGE = "onnx-tensorrt docs/operators.md, MaxPool, AveragePool and LpPool"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Dilations, indices, orders of norms, and windows above the limit."""
    engine = target.engine
    if engine.family == "onnxruntime":
        return
    for node in view.nodes:
        if node.standard and node.op in _POOLS:
            for reason, hint, mend in _of_openvino(node) if not engine.nvidia else _reasons(node, target):
                yield Found(node.name, reason, hint, mend, engine.window.source or _PAGE, node.module)


def _of_openvino(node: Node) -> Iterator[tuple[str, str, str]]:
    axes = len(node.attributes.get("kernel_shape", ()))
    if axes > 3:
        yield f"{node.op} over {axes} axes; at most three are known", "reshape to two axes", ""


def _reasons(node: Node, target: Target) -> Iterator[tuple[str, str, str]]:
    kernel = node.attributes.get("kernel_shape", ())
    if any(d != 1 for d in node.attributes.get("dilations", ())):
        yield f"{node.op} with dilations", "use a convolution or strided slices instead", ""
    if len(node.outputs()) > 1:
        yield "MaxPool gives Indices, which TensorRT does not", "compute them with ArgMax, or leave them out", ""
    axes = len(kernel)
    if axes > 3 or (axes == 1 and node.op == "LpPool"):
        yield f"{node.op} over {axes} axes; two or three are known", "reshape to two axes", ""
    if "LpPool" in node.op and node.attributes.get("p", 2) not in (1, 2):
        yield f"{node.op} of order {node.attributes['p']}; only 1 and 2 are known", "spell it out with Pow", ""
    limit = target.engine.window.value
    if limit and prod(kernel) > limit:
        size = " x ".join(map(str, kernel))
        yield f"a window of {size}, above {limit} elements", "edgeattn rewrite", "rewrite:canonicalise_global_pool"


CHECK = find
