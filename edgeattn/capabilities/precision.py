"""precision: what is asked for is what will run: what the graph says, or what the device computes in.

TensorRT 11 and TensorRT for RTX have no flags for FP16, BF16 and INT8 any more, and networks are built strongly typed
here from 9.0 on: a float graph becomes an FP32 engine whatever a tool asks for. On 8.5 and 8.6 the flags follow from
the graph's types too. OpenVINO takes any precision for any device and replaces what that one does not have: an NPU
computes an FP32 graph in FP16, so FP16 is what to ask for, with FP16's limits of parity.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._openvino_names import replaced
from edgeattn.capabilities._view import View

_TYPES = {"fp16": "float16", "bf16": "bfloat16"}


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """A precision that is neither in the graph nor a flag of the engine, or that a device of it does not have."""
    engine, source = target.engine, target.engine.typing.source
    for device, kinds in engine.computes.value.items():
        if told := replaced(device, precision, kinds):
            yield Found("", *told, "", engine.computes.source)
    if not engine.nvidia:
        return
    if precision == "bf16" and "bfloat16" not in engine.types.value:
        yield Found("", f"{engine.title} has no BF16", "use --precision fp16 or int8", "", engine.types.source)
        return
    if precision in _TYPES and not any(
        view.type_of(v) == _TYPES[precision] for n in view.nodes for v in n.proto.output
    ):
        reason = f"{precision} is asked for and no tensor is {_TYPES[precision].upper()}; it would be built in FP32"
        yield Found("", reason, f"edgeattn quantize --scheme {precision}", f"scheme:{precision}", source)
    if precision == "int8" and not any(node.op == "QuantizeLinear" for node in view.nodes):
        reason = "int8 is asked for and nothing is quantized; it would be built in FP32"
        yield Found("", reason, target.quantizing, "scheme:int8-static", source)


CHECK = find
