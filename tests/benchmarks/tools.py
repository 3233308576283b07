"""Graph rewriters, ours and its peers, behind one signature: a model in, a model and what was done out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import onnx

from edgeattn import registry, rewrite
from edgeattn.backends import Options, oracle
from edgeattn.errors import EngineFailed
from edgeattn.program import Case, Program, Reference, Session

ENGINES = ("onnxruntime", "openvino")


RULES = [name for name in rewrite.ORDER if not registry.get("rewrite", name).reshapes]


@dataclass(frozen=True)
class Done:
    """What a rewriter made of a model.

    Attributes:
        model: the result. fired: rule -> how often. undone: rule -> why its result was thrown away.
    """

    model: onnx.ModelProto
    fired: Mapping[str, int] = field(default_factory=dict)
    undone: Mapping[str, str] = field(default_factory=dict)


def ours(model: onnx.ModelProto, feeds: Mapping[str, Any], judge: str) -> Done:
    """Every rule that leaves a model's form as it is, the measured ones too, as ``--only`` of them all applies them."""
    program = Program({"main": model}, reference=Reference("source graph", (Case("suite", feeds),)))
    digest = program.digest()
    result = rewrite.rewrite(program, _opener(judge), only=RULES)
    assert program.digest() == digest, "the source was edited"
    rules = result.history[-1].notes["rules"]
    fired = {r["rule"]: r["count"] for r in rules if r["count"] and not r.get("undone")}
    return Done(result.graphs["main"], fired, {r["rule"]: r["undone"] for r in rules if r.get("undone")})


def onnxsim(model: onnx.ModelProto, feeds: Mapping[str, Any], judge: str) -> Done:
    """onnxsim with its defaults."""
    import onnxsim as tool

    return Done(tool.simplify(model)[0])


def onnxslim(model: onnx.ModelProto, feeds: Mapping[str, Any], judge: str) -> Done:
    """OnnxSlim with its defaults."""
    import onnxslim as tool

    return Done(tool.slim(_copy(model)))


def onnxscript(model: onnx.ModelProto, feeds: Mapping[str, Any], judge: str) -> Done:
    """onnxscript's optimizer, then its default rewrite rules."""
    from onnxscript import optimizer, rewriter

    return Done(rewriter.rewrite(optimizer.optimize(_copy(model))))


TOOLS: Mapping[str, Callable[[onnx.ModelProto, Mapping[str, Any], str], Done]] = {
    "edgeattn": ours,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxscript": onnxscript,
}


def version(tool: str) -> str:
    """The installed version, or an empty string."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(tool)
    return ""


class Opened:
    """A model open in an engine as users open it: the engine's own optimisations on, one thread."""

    def __init__(self, engine: str, model: onnx.ModelProto) -> None:
        self._run = _onnxruntime(model) if engine == "onnxruntime" else _openvino(model)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Outputs in order."""
        return self._run(feeds)


def _opener(engine: str) -> Any:
    """What our rewrites are judged in: ONNX Runtime, as everywhere, or OpenVINO where that one lacks the operator.

    Without a name, the first of them that opens the program.
    """
    backend = registry.get("backends", "openvino")

    def openvino(program: Program) -> Mapping[str, Session]:
        return {name: backend.load(m, Options(threads=1)) for name, m in program.graphs.items()}

    def either(program: Program) -> Mapping[str, Session]:
        try:
            return oracle(program)
        except EngineFailed:
            return openvino(program)

    return {"onnxruntime": oracle, "openvino": openvino}.get(engine, either)


def _onnxruntime(model: onnx.ModelProto) -> Callable[[Mapping[str, Any]], list[Any]]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, dict(feeds))


def _openvino(model: onnx.ModelProto) -> Callable[[Mapping[str, Any]], list[Any]]:
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    names = {name for port in compiled.inputs for name in port.get_names()}

    def run(feeds: Mapping[str, Any]) -> list[Any]:
        results = compiled({name: value for name, value in feeds.items() if name in names})
        return [results[i] for i in range(len(compiled.outputs))]

    return run


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Some peers edit what they are given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
