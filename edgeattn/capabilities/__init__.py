"""What an engine's version takes, and where a graph asks for more: known before any build, without the engine.

The table is data: one row a version (``_tensorrt``, ``_tensorrt_rtx``, ``_openvino``, ``_onnxruntime``), every fact
with its source. A check is one file here with ``CHECK``; dropping a file in adds it. ``findings`` asks every check
about every graph. An empty list is a promise that ``tests/benchmarks/doctor_agreement`` puts to the real parsers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeattn import registry
from edgeattn.capabilities._finding import Engine, Fact, Finding, Target
from edgeattn.capabilities._targets import closest, resolve, targets

if TYPE_CHECKING:
    import onnx

__all__ = ["Engine", "Fact", "Finding", "Target", "closest", "findings", "resolve", "targets"]


def findings(graphs: Mapping[str, onnx.ModelProto], target: str, precision: str = "fp32") -> list[Finding]:
    """What a target would refuse of these graphs; empty where it takes them.

    Args:
        graphs: ONNX graphs by name; they are not edited.
        target: ``tensorrt:10.3``, ``tensorrt-rtx:sm89``, ``jetson:jp6.2``, ``openvino:npu`` …; see :func:`resolve`.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``: what the engine will be asked for.

    Raises:
        UnknownName, UsageError: no such target.
    """
    from edgeattn.capabilities._view import View

    engine = resolve(target)
    found = []
    for graph, model in graphs.items():
        view = View(graph, model)
        for check in registry.names("capabilities"):
            for f in registry.get("capabilities", check)(view, engine, precision):
                found.append(Finding(check, graph, f.node, f.reason, f.hint, f.mend, f.source, f.module))
    if {f.graph for f in found if f.check == "precision"} != set(graphs):  # some graph is in what is asked for
        found = [f for f in found if f.check != "precision"]
    return found
