"""``inspect``, ``recognise``, ``why-not``: what is in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeattn.cli.app import A_LOOK_S, Debug, Json, Patience, Quiet, app
from edgeattn.cli.ui import Ui
from edgeattn.errors import UsageError


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An .onnx, a program directory, a bundle, a build kit or a .plan.")],
    timeout: Patience = A_LOOK_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What a file is: inputs, operators, parameters, MACs, attention found, precision."""
    from edgeattn import returned, storage
    from edgeattn.bundle import manifest as manifests
    from edgeattn.preflight import read_model

    with Ui(as_json, quiet, [file], timeout=timeout) as ui:
        facts: dict[str, Any] = {}
        if (file / "manifest.json").exists():
            manifest = manifests.verify(file)
            facts["bundle"] = {
                "model": manifest.model,
                "target": manifest.target,
                "precision": f"asked {manifest.precision['requested']}, {_ran(manifest.precision['effective'])}",
            }
            facts["graphs"] = {g: _facts_of(read_model(file / e.portable)) for g, e in manifest.graphs.items()}
        elif returned.is_kit(file):
            kit = returned.opened(file)
            facts["kit"] = {"model": kit["model"], "target": kit["target"], "precision": kit["precision"]}
            facts["graphs"] = {g: _facts_of(read_model(file / told["file"])) for g, told in kit["graphs"].items()}
        elif file.suffix == ".plan":
            facts["plan"] = _plan(file)
        else:
            program = storage.load(file, ui.warn)
            facts["graphs"] = {g: _facts_of(model) for g, model in program.graphs.items()}
        ui.emit(facts)
        if "bundle" in facts:
            ui.table(("bundle", str(file)), facts["bundle"].items())
        if "kit" in facts:
            ui.table(("build kit", str(file)), facts["kit"].items())
        if "plan" in facts:
            ui.table(("plan", str(file)), facts["plan"].items())
        for graph, known in facts.get("graphs", {}).items():
            _show(ui, graph, known)


def _ran(effective: str) -> str:
    """What an engine runs in; an IR for a device that was not there to compile it does not tell."""
    from edgeattn.report.gates import NOT_COMPILED

    return effective if effective == NOT_COMPILED else f"runs in {effective}"


def _plan(file: Path) -> dict[str, str]:
    """What a TensorRT engine is, after its bytes were found to be those of its build; nothing opens it."""
    from edgeattn import profile
    from edgeattn.backends import _tensorrt_plan as plans

    known = plans.facts(file)
    plans.read(file, known.engine, known.version)
    return {
        "built by": f"{known.engine.replace('_', '-')} {known.version}",
        "for": (", ".join(known.capabilities) or "every GPU from Ampere on")
        + (", and later versions" if known.movable else ""),
        "bytes": f"{known.bytes:,}" + (", without weights" if known.stripped else ""),
        "takes": " or ".join(filter(None, map(profile.words, known.profiles))) or "fixed sizes",
        "tensors": "; ".join(f"{name} {list(dims)}" for name, dims in known.tensors.items()),
        "sha256": known.sha256,
    }


@app.command()
def recognise(
    file: Annotated[Path, typer.Argument(metavar="IN", help="An .onnx, or a program directory.")],
    timeout: Patience = A_LOOK_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The attention structures found in a file, node by node."""
    from edgeattn import storage
    from edgeattn.recognise import recognise as find

    with Ui(as_json, quiet, [file], timeout=timeout) as ui:
        found = [(graph, a) for graph, model in storage.load(file, ui.warn).graphs.items() for a in find(model)]
        told = [
            {
                "graph": graph,
                "kind": a.kind,
                "what": a.describe(),
                "features": a.features,
                "gate": a.gate,
                "nodes": sorted(a.nodes),
                "family": a.family,
                "result": a.result,
                "facts": a.facts(),
            }
            for graph, a in found
        ]
        ui.emit(told, "" if found else f"{file}: no attention found")
        for graph, a in found:
            rows = [
                *([("module", a.module)] if a.module else []),
                ("what", a.describe()),
                ("reads", a.features),
                ("gate" if a.family == "gate" else "weights", a.gate),
                *(("node", n) for n in sorted(a.nodes)),
            ]
            ui.table((f"{graph}: {a.kind}", ""), rows)


@app.command(name="why-not")
def why_not(
    rule: Annotated[str, typer.Argument(metavar="RULE|IN", help="A rewrite rule; or the file alone: a line a rule.")],
    file: Annotated[Path | None, typer.Argument(metavar="IN", help="An .onnx, or a program directory.")] = None,
    every: Annotated[bool, typer.Option("--all", help="A line for each rule.")] = False,
    timeout: Patience = A_LOOK_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Why a rule does not fire on a file, nearest miss first, and the node that broke it."""
    from edgeattn import storage
    from edgeattn.cli.misses import show_all, show_one
    from edgeattn.rewrite import ORDER, selected, survey

    source = file or Path(rule)
    if file is None and rule in ORDER and not source.exists():
        raise UsageError("no file to look into", where=f"why-not {rule}", hint=f"give one: edgeattn why-not {rule} IN")
    with Ui(as_json, quiet, [source], timeout=timeout) as ui:
        if file is None or every:
            show_all(ui, survey(storage.load(source, ui.warn)))
            return
        selected([rule])  # an unknown rule is told before the file is read
        (look,) = survey(storage.load(source, ui.warn), [rule])
        show_one(ui, look)


def _facts_of(model: Any) -> dict[str, Any]:
    from collections import Counter

    from edgeattn import graphs, outside
    from edgeattn.recognise import recognise

    counts = Counter(node.op_type for node in model.graph.node)
    return {
        "inputs": [str(s) for s in graphs.input_specs(model)],
        "outputs": [str(s) for s in graphs.output_specs(model)],
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "domains": sorted({n.domain or "ai.onnx" for n in model.graph.node}),
        "parameters": graphs.parameters(model),
        "macs": graphs.multiply_accumulates(model),
        "bytes": outside.size(model),
        "precision": _precision(model, counts),
        "nodes": sum(counts.values()),
        "operators": dict(counts.most_common()),
        "attention": [
            {"kind": a.kind, "what": a.describe(), "gate": a.gate, "family": a.family, "facts": a.facts()}
            for a in recognise(model)
        ],
    }


def _precision(model: Any, counts: Mapping[str, int]) -> str:
    """What a graph says that it computes in."""
    from edgeattn import graphs, rounding

    if counts["QuantizeLinear"]:
        return "int8 (QDQ)"
    if graphs.packed_weights(model):
        return "int8 weights, float activations"
    if not (kinds := rounding.types_in(model)):
        return "float"
    types = graphs.element_types(model)
    layers = [types.get(node.output[0]) for node in model.graph.node if node.op_type in graphs.MAC_OPS]
    typed = sum(kind in rounding.NAMES for kind in layers)
    return f"{' and '.join(sorted(kinds))}, {typed} of {len(layers)} layers; {counts['Cast']} Casts"


def _show(ui: Ui, graph: str, known: dict[str, Any]) -> None:
    operators = ", ".join(f"{op} {n}" for op, n in known["operators"].items())
    rows = [
        *(("input", i) for i in known["inputs"]),
        *(("output", o) for o in known["outputs"]),
        ("opset", ", ".join(f"{d} {v}" for d, v in known["opset"].items())),
        ("parameters", f"{known['parameters']:,}"),
        ("MACs at batch 1", f"{known['macs']:,}"),
        ("precision", known["precision"]),
        (f"{known['nodes']} nodes", operators),
        *(("attention", _told(a)) for a in known["attention"]),
    ]
    ui.table((graph, ""), rows)


def _told(attention: dict[str, Any]) -> str:
    """``cbam layer3.0.cbam: 64 channels … (gate sigmoid_1)``."""
    name = " ".join(filter(None, (attention["kind"], attention["facts"].get("module", ""))))
    what = "gate" if attention["family"] == "gate" else "weights"
    return f"{name}: {attention['what'] or 'no details'} ({what} {attention['gate']})"
