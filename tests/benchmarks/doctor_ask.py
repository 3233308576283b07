"""What a real engine says of an ONNX file: its own parser and builder, asked in a child process.

``ask("tensorrt_rtx", files)`` starts one child, which reads file after file; one that dies is an answer too, and the
next child goes on behind the file that killed it. ``--child ENGINE`` is that child: it needs the engine alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINES = ("tensorrt_rtx", "onnxruntime", "openvino")
_SECONDS = 120  # for one file; the slowest of the zoo takes 10


@dataclass(frozen=True)
class Answer:
    """``stage`` is ``parse``, ``build`` or ``died``; ``why`` is the engine's own text where it refused."""

    taken: bool
    stage: str
    why: str


def ask(
    engine: str, files: Sequence[Path], *, capability: str = "sm89", path: str = "", python: str = ""
) -> dict[Path, Answer]:
    """The engine's answer for each file.

    Args:
        engine: one of ``ENGINES``. files: ONNX files; ``FILE.json`` beside one holds values of inputs that are shapes.
        capability: what TensorRT for RTX builds for. path: a directory to import the engine from. python: interpreter.
    """
    answers: dict[Path, Answer] = {}
    while left := [file for file in files if file not in answers]:
        answers |= _one_child(engine, left, capability, path, python or sys.executable)
    return answers


def _one_child(engine: str, files: Sequence[Path], capability: str, path: str, python: str) -> dict[Path, Answer]:
    found = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, found)))}
    command = [python, __file__, "--child", engine, capability]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    answers: dict[Path, Answer] = {}
    reading: Path | None = None
    with subprocess.Popen(command, text=True, env=environment, **pipes) as child:
        assert child.stdout is not None
        given = "".join(f"{file}\n" for file in files)
        feeder = threading.Thread(target=_feed, args=(child.stdin, given), daemon=True)
        feeder.start()
        watch = _Watch(child)
        for line in child.stdout:  # engines print there too
            watch.again()
            if line.startswith("@ask "):
                reading = Path(line[5:].strip())
            elif line.startswith("@answer ") and reading is not None:
                answers[reading], reading = Answer(**json.loads(line[8:])), None
        watch.stop()
        feeder.join()
    if reading is not None:
        answers[reading] = Answer(False, "died", f"the process ended with {child.returncode}")
    elif not answers:
        raise RuntimeError(f"{engine} cannot be asked here: its process ended with {child.returncode}")
    return answers


class _Watch:
    """Kills a child that says nothing for too long."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child, self._timer = child, threading.Timer(_SECONDS, child.kill)
        self._timer.start()

    def again(self) -> None:
        self.stop()
        self._timer = threading.Timer(_SECONDS, self._child.kill)
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()


def _feed(stream: Any, text: str) -> None:
    try:
        stream.write(text)
        stream.close()
    except OSError:
        pass


def _child(engine: str, capability: str) -> None:
    asked = _ASKED[engine](capability)
    for line in sys.stdin:
        file = line.strip()
        print(f"\n@ask {file}", flush=True)
        try:
            taken, stage, why = asked(file)
        except Exception as error:  # the engine's own exception is its answer
            taken, stage, why = False, "parse", str(error)
        print("\n@answer " + json.dumps({"taken": taken, "stage": stage, "why": why[:600]}), flush=True)


def _tensorrt_rtx(capability: str) -> Callable[[str], tuple[bool, str, str]]:
    import tensorrt_rtx as trt  # type: ignore[import-not-found, unused-ignore]

    class Log(trt.ILogger):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(text)

    def asked(file: str) -> tuple[bool, str, str]:
        log = Log()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        parsed = parser.parse_from_file(file)
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        if errors or not parsed:
            told = "; ".join(f"{e.node_name()} {e.node_operator()}: {e.desc()}" for e in errors)
            return False, "parse", told or "; ".join(log.errors[:2])
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0)
        _profiles(builder, config, network, file)
        plan = builder.build_serialized_network(network, config)
        return plan is not None, "build", "; ".join(log.errors[:2])

    return asked


def _profiles(builder: Any, config: Any, network: Any, file: str) -> None:
    """Sizes for dynamic inputs: 2, or what ``FILE.json`` says of an input whose values are a shape."""
    values = json.loads(Path(f"{file}.json").read_text()) if Path(f"{file}.json").exists() else {}
    profile, dynamic = builder.create_optimization_profile(), False
    for tensor in map(network.get_input, range(network.num_inputs)):
        if tensor.is_shape_tensor:
            count = 1
            for dim in tensor.shape:
                count *= max(1, dim)
            given = values.get(tensor.name, [2] * count)
            profile.set_shape_input(tensor.name, given, given, given)
            dynamic = True
        elif -1 in tuple(tensor.shape):
            sizes = [tuple(size if d < 0 else d for d in tensor.shape) for size in (2, 2, 3)]
            profile.set_shape(tensor.name, *sizes)
            dynamic = True
    if dynamic:
        config.add_optimization_profile(profile)


def _openvino(capability: str) -> Callable[[str], tuple[bool, str, str]]:
    import openvino

    core = openvino.Core()

    def asked(file: str) -> tuple[bool, str, str]:
        model = core.read_model(file)
        try:
            core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
        except RuntimeError as error:
            return False, "build", str(error)
        return True, "build", ""

    return asked


def _onnxruntime(capability: str) -> Callable[[str], tuple[bool, str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1

    def asked(file: str) -> tuple[bool, str, str]:
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return True, "build", ""

    return asked


_ASKED = {"tensorrt_rtx": _tensorrt_rtx, "openvino": _openvino, "onnxruntime": _onnxruntime}


def version(engine: str, path: str = "", python: str = "") -> str:
    """The engine's version as its package says it."""
    code = f"import {engine} as e; print('@', e.__version__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH", ""))))}
    command = [python or sys.executable, "-c", code]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    told = next(line[2:] for line in said.splitlines() if line.startswith("@ "))
    return told.partition("-")[0]  # OpenVINO adds its build


def lines(answers: dict[Path, Answer]) -> Iterator[str]:
    """A line a file, for looking at."""
    for file, answer in answers.items():
        yield f"{file.stem}: {'taken' if answer.taken else answer.stage + ': ' + answer.why}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], sys.argv[3])
    else:
        for told in lines(ask(sys.argv[1], [Path(name) for name in sys.argv[2:]])):
            print(told)
