"""What becomes of a spelling's graph before anybody looks at it: exporters, opsets, simplifiers, quantizers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx

from edgeattn.program import Program
from tests.spellings._export import Unexportable
from tests.spellings._spelling import Spelling

Make = Callable[[Spelling], onnx.ModelProto]


class Absent(Exception):
    """A simplifier that is not installed, or that fails on this graph."""


def _exported(exporter: str, opset: int) -> Make:
    return lambda spelling: spelling.export(exporter, opset).graphs["main"]


def _after(change: Callable[[Program], onnx.ModelProto], exporter: str, opset: int) -> Make:
    def make(spelling: Spelling) -> onnx.ModelProto:
        program = spelling.export(exporter, opset)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                return change(program)
        except Exception as error:
            raise Absent(f"{type(error).__name__}: {error}".splitlines()[0]) from error

    return make


def _onnxsim(program: Program) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(program.graphs["main"])[0]


def _onnxslim(program: Program) -> onnx.ModelProto:
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(program.graphs["main"])
    return onnxslim.slim(copy)


def _basic(program: Program) -> onnx.ModelProto:
    """Saved by ONNX Runtime after its BASIC optimisations."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "m.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(program.graphs["main"].SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _qdq(program: Program) -> onnx.ModelProto:
    """ONNX Runtime's static quantization with its defaults: every operator it can, gates included."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            assert program.reference is not None
            self.left = [dict(case.feeds) for case in program.reference.cases]

        def get_next(self):  # type: ignore[no-untyped-def]
            return self.left.pop() if self.left else None

    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
            onnx.save(program.graphs["main"], source)
            quantization.quantize_static(source, out, Reader(), quant_format=quantization.QuantFormat.QDQ)
            return onnx.load(out)
    finally:
        logging.disable(logging.NOTSET)


VARIANTS: dict[str, Make] = {
    **{f"dynamo, opset {opset}": _exported("dynamo", opset) for opset in (18, 20, 23)},
    **{f"TorchScript, opset {opset}": _exported("torchscript", opset) for opset in (11, 13, 16, 17)},
    "dynamo 18, onnxsim": _after(_onnxsim, "dynamo", 18),
    "dynamo 18, onnxslim": _after(_onnxslim, "dynamo", 18),
    "dynamo 18, ONNX Runtime BASIC": _after(_basic, "dynamo", 18),
    "TorchScript 17, onnxsim": _after(_onnxsim, "torchscript", 17),
    "TorchScript 17, onnxslim": _after(_onnxslim, "torchscript", 17),
    "TorchScript 17, ONNX Runtime BASIC": _after(_basic, "torchscript", 17),
    "TorchScript 17, ONNX Runtime QDQ": _after(_qdq, "torchscript", 17),
}
# Lost by the tool, not by the recogniser: ONNX Runtime's quantizer drops a Clip whose range its scale holds, and rounds
# a mask's number to the tensor's scale.
LOST = {
    "TorchScript 17, ONNX Runtime QDQ": frozenset(
        {"se-gate-relu6-over-6", "se-gate-clamp-by-sixth", "sam-hard", "cbam-hard", "luong-mask-float-added"}
        | {"luong-mask-float-added-1e9", "bahdanau-mask-float-added-1e9", "mha-mask-added"}
    )
}
CHEAP = tuple(name for name in VARIANTS if name.startswith("TorchScript") and "QDQ" not in name and "slim" not in name)

__all__ = ["CHEAP", "LOST", "VARIANTS", "Absent", "Unexportable"]
