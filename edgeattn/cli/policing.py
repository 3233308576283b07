"""``policy``: what of a file stays float and why, also in the words of other quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeattn.cli.app import A_LOOK_S, Debug, Json, Patience, Quiet, app
from edgeattn.cli.graphs import In
from edgeattn.cli.ui import Ui
from edgeattn.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from edgeattn.quantize import Policy

_TOOLS = ("nncf", "onnxruntime")


@app.command()
def policy(
    source: In,
    tool: Annotated[
        str | None, typer.Option("--for", help="Python that hands it to a tool: nncf, onnxruntime.")
    ] = None,
    gate: Annotated[str, typer.Option(help="How attention gates are treated: float or int8.")] = "float",
    keep: Annotated[
        list[str] | None, typer.Option(help="Keep nodes or modules matching this pattern in float (repeatable).")
    ] = None,
    timeout: Patience = A_LOOK_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What stays float when a file is quantized, and why; for NNCF and ONNX Runtime's quantizer too."""
    from edgeattn import storage
    from edgeattn.quantize import attention_policy
    from edgeattn.quantize._policy import refuse_unmatched

    with Ui(as_json, quiet, [source], timeout=timeout) as ui:
        if tool is not None and tool not in _TOOLS:
            raise UnknownName("tool", tool, _TOOLS, where="--for")
        if gate not in ("float", "int8"):
            raise UsageError(f"a file's gates are 'float' or 'int8', not '{gate}'", where="--gate")
        program = storage.load(source, ui.warn)
        refuse_unmatched(list(program.graphs.values()), keep or ())
        found = {graph: attention_policy(model, gate, keep or ()) for graph, model in program.graphs.items()}
        told = {graph: _told(decided, tool) for graph, decided in found.items()}
        ui.emit(told, "\n\n".join(_python(graph, decided, tool) for graph, decided in found.items()) if tool else "")
        for graph, decided in found.items() if tool is None else ():
            counts = f"{len(decided.int8)} layers in INT8, {len(decided.products)} products with a gate"
            ui.table(("node", "stays float because"), decided.floats.items(), title=f"{graph}: {counts}")


def _told(decided: Policy, tool: str | None) -> dict[str, Any]:
    if tool == "nncf":
        return decided.ignored_scope()
    if tool == "onnxruntime":
        return {"nodes_to_exclude": decided.nodes_to_exclude(), **decided.static_options()}
    products = {p.output: {"features": p.features, "mask": p.mask, "peak": p.peak} for p in decided.products}
    return {"gate": decided.gate, "int8": decided.int8, "float": decided.floats, "gate_products": products}


def _python(graph: str, decided: Policy, tool: str) -> str:
    """What a user pastes before the call of the tool."""
    values = _told(decided, tool)
    lines = "\n".join(f"    {name}={value!r}," for name, value in values.items())
    if tool == "nncf":
        return f"# {graph}: nncf.quantize(model, data, ignored_scope=scope)\nscope = nncf.IgnoredScope(\n{lines}\n)"
    return f"# {graph}: quantize_static(source, target, reader, **policy)\npolicy = dict(\n{lines}\n)"
