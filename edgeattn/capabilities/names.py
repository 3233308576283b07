"""names: no node shares its name with a QuantizeLinear or DequantizeLinear.

TensorRT names its layers after the nodes. Most get a number behind a name that is taken; those of quantizers do not,
and the parser stops. ONNX Runtime takes no name twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

_SOURCE = "measured with tensorrt_rtx 1.7.1: a second DequantizeLinear of one name; onnxruntime 1.31.1"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Names that occur twice."""
    family = target.engine.family
    if family == "openvino":
        return
    counts = Counter(node.proto.name for node in view.nodes if node.proto.name)
    quantizers = {node.proto.name for node in view.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")}
    for name, count in counts.items():
        if count > 1 and (name in quantizers or family == "onnxruntime"):
            reason = f"{count} nodes are called '{name}'"
            yield Found(name, reason, "give each node a name of its own: edgeattn doctor --fix", "names", _SOURCE)


CHECK = find
