"""precision: what is asked for is what the graph says, where the engine reads precision from the graph alone.

TensorRT 11 and TensorRT for RTX have no flags for FP16, BF16 and INT8 any more: a float graph becomes an FP32 engine
whatever a tool asks for. Where the flags still exist, they are a request that each layer may ignore.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

_TYPES = {"fp16": "float16", "bf16": "bfloat16"}
_ASKED = ("fp32", "fp16", "bf16", "int8")


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """A precision that is neither in the graph nor a flag of the engine."""
    engine, source = target.engine, target.engine.typing.source
    if precision == "bf16" and "bfloat16" not in engine.types.value:
        yield Found("", f"{engine.title} has no BF16", "use --precision fp16 or int8", "", engine.types.source)
        return
    if engine.typing.value != "strong":
        return
    if precision in _TYPES and not any(
        view.type_of(v) == _TYPES[precision] for n in view.nodes for v in n.proto.output
    ):
        reason = (
            f"{precision} is asked for and no tensor is {_TYPES[precision].upper()}; {engine.title} has no flag for it"
        )
        yield Found("", reason, f"edgeattn quantize --scheme {precision}", f"scheme:{precision}", source)
    if precision == "int8" and not any(node.op == "QuantizeLinear" for node in view.nodes):
        reason = f"int8 is asked for and nothing is quantized; {engine.title} has no calibrator"
        yield Found("", reason, "edgeattn quantize --scheme int8-static", "scheme:int8-static", source)


CHECK = find
