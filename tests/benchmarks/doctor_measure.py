"""Fill the table of capabilities by asking: ``python -m tests.benchmarks.doctor_measure ENGINE [--path DIR ...]``.

For TensorRT for RTX, ``--path`` names a directory that one of its releases was installed into (``pip install --target
DIR tensorrt_rtx_cu13==1.4.0.76``); each such release becomes a row. Every node test of ONNX in each of its forms, and
every planted graph, is asked (``doctor_cases``); an operator counts as taken where one graph with it is. Writes
``edgeattn/capabilities/measured/ENGINE.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

import edgeattn.capabilities
from edgeattn.capabilities._view import View, since, types_of
from edgeattn.standard import STANDARD_DOMAINS, all_nodes
from tests.benchmarks.doctor_ask import ENGINES, Answer, ask, version
from tests.benchmarks.doctor_cases import every_case

FOLDER = Path(edgeattn.capabilities.__file__).parent / "measured"


def measured(package: str, models: Mapping[Path, onnx.ModelProto], answers: Mapping[Path, Answer]) -> dict[str, Any]:
    """What one release takes of the node tests."""
    taken = {file: model for file, model in models.items() if answers[file].taken}
    operators = {n.op_type for m in taken.values() for n in all_nodes(m.graph) if n.domain in STANDARD_DOMAINS}
    tried = {n.op_type for m in models.values() for n in all_nodes(m.graph) if n.domain in STANDARD_DOMAINS}
    return {
        "package": package,
        "newest_opset": min(max(_opset(m) for m in taken.values()), onnx.defs.onnx_opset_version()),
        "newest_ir": max(m.ir_version for m in taken.values()),
        "operators": sorted(operators),
        "refused": {op: _reason(op, models, answers) for op in sorted(tried - operators)},
        "types": sorted({kind for m in taken.values() for kind in _types(m)}),
        "refused_versions": _refused_versions(taken, answers, operators),
        **_by_types(models, answers, operators),
        "asked": len(models),
        "taken": len(taken),
    }


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), 0)


def _types(model: onnx.ModelProto) -> set[str]:
    values = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    return {onnx.TensorProto.DataType.Name(kind).lower() for kind in values if kind}


def _refused_versions(
    taken: Mapping[Path, onnx.ModelProto], answers: Mapping[Path, Answer], operators: set[str]
) -> dict[str, list[int]]:
    """For operators that are taken, the definitions that the engine says it lacks, and that no graph it took holds."""
    held = {(n.op_type, since(n.op_type, _opset(m))) for m in taken.values() for n in all_nodes(m.graph)}
    said = {(op, int(number)) for a in answers.values() for op, number in _LACKS.findall(a.why)}
    refused: dict[str, list[int]] = {}
    for op, number in sorted(said - held):
        if op in operators:
            refused.setdefault(op, []).append(number)
    return refused


_LACKS = re.compile(r"(?:implementation for |conversion rule found for operations: )(\w+)[-(](\d+)")


def _by_types(
    models: Mapping[Path, onnx.ModelProto], answers: Mapping[Path, Answer], operators: set[str]
) -> dict[str, dict[str, list[str]]]:
    """``INPUT>OUTPUT`` types of each operator: with which no graph of it alone was taken; with which one was."""
    taken: dict[str, set[str]] = {}
    tried: dict[str, set[str]] = {}
    for file, model in models.items():
        if len(model.graph.node) == 1 and (types := signature(View("main", model))):
            (node,) = model.graph.node
            tried.setdefault(node.op_type, set()).add(types)
            if answers[file].taken:
                taken.setdefault(node.op_type, set()).add(types)
    judged = sorted(
        (operators & set(tried)) - {"QuantizeLinear", "DequantizeLinear"}
    )  # these have a check of their own
    refused = {op: sorted(tried[op] - taken.get(op, set())) for op in judged}
    return {
        "refused_types": {op: types for op, types in refused.items() if types},
        "taken_types": {op: types for op in judged if (types := sorted(filter(_odd, taken.get(op, set()))))},
    }


_USUAL = {"float", "float16", "bfloat16", "double", "int32", "int64", "bool", "nothing"}


def _odd(types: str) -> bool:
    """Whether a type is among them that engines do not compute in as a rule."""
    return not set(types.split(">")) <= _USUAL


def signature(view: View) -> str:
    """``float>int64``: the types of a graph's one node, first input and output; empty where they are not known."""
    return types_of(view, view.nodes[0])


def _reason(op: str, models: Mapping[Path, onnx.ModelProto], answers: Mapping[Path, Answer]) -> str:
    """The engine's words about an operator; of several, the shortest."""
    with_it = [f for f, m in models.items() if any(n.op_type == op for n in all_nodes(m.graph))]
    lines = [line.strip() for f in with_it for line in answers[f].why.splitlines() if op in line]
    return min(lines or [answers[with_it[0]].why.split("\n")[0]], key=len)[:160]


def answered(
    engine: str, files: Sequence[Path], path: str = "", folder: Path | None = None, capability: str = "sm89"
) -> dict[Path, Answer]:
    """What an engine says of files; with a ``folder``, what it said of these bytes before is kept there."""
    for_gpu = "" if capability == "sm89" else f"-{capability}"
    kept = folder / f"{engine}-{version(engine, path)}{for_gpu}.json" if folder else None
    told = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    keys = {file: _digest(file) for file in files}
    if left := [file for file in files if keys[file] not in told]:
        told |= {
            keys[file]: vars(answer) for file, answer in ask(engine, left, capability=capability, path=path).items()
        }
    if kept is not None:
        kept.write_text(json.dumps(told))
    return {file: Answer(**told[keys[file]]) for file in files}


def _digest(file: Path) -> str:
    values = Path(f"{file}.json")
    return hashlib.sha256(file.read_bytes() + (values.read_bytes() if values.exists() else b"")).hexdigest()


def main() -> None:
    """Ask and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("engine", choices=ENGINES)
    arguments.add_argument("--path", action="append", default=[], help="a directory that a release is installed in")
    arguments.add_argument("--keep", type=Path, help="a directory for the answers; those in it are not asked again")
    options = arguments.parse_args()
    command = f"python -m tests.benchmarks.doctor_measure {options.engine}"
    with tempfile.TemporaryDirectory() as folder:
        files = every_case(Path(folder))
        models = {file: onnx.load(file) for file in files}
        rows = [
            measured(version(options.engine, path), models, answered(options.engine, files, path, options.keep))
            for path in options.path or [""]
        ]
    table: dict[str, Any] = {"written_by": command, "onnx": onnx.__version__}
    if options.engine == "tensorrt_rtx":
        table["versions"] = {".".join(row["package"].split(".")[:2]): row for row in rows}
    else:
        table |= rows[-1]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{options.engine}.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
