"""Open engines: a TensorRT plan on the board, or ONNX Runtime on the same graph to rehearse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from . import versions
from .building import logger
from .cuda import Cuda
from .files import PLANS, Kit
from .refusal import BAD_INPUT, UNSUPPORTED, Refused
from .steps import Arrays, Executor

_TYPES = {  # of an engine's inputs and outputs, by the name of trt.DataType
    **{"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"},
    **{"BOOL": "bool", "UINT8": "uint8"},
}


class TensorRt(Executor):
    """A plan with its buffers on the device, which grow to the largest that was asked for.

    Values are copied to the device and back in every run: what is timed is what an application sees that hands over
    arrays of the host.
    """

    def __init__(self, library: Any, cuda: Cuda, file: Path, graph: dict[str, Any], row: versions.Row) -> None:
        self.inputs, self._cuda, self._file = graph["inputs"], cuda, file
        self._profiles, self._profile = graph["profiles"], 0
        self._log = logger(library)
        self._runtime = library.Runtime(self._log)
        if row.guards_code:
            self._runtime.engine_host_code_allowed = False
        self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            hint = "build it again: python3 build.py"
            raise Refused(UNSUPPORTED, "cannot be opened: " + (self._log.said or "no reason given"), str(file), hint)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise Refused(UNSUPPORTED, "has no room to run: " + self._log.said, str(file), "free memory of the board")
        self._names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = library.TensorIOMode.INPUT
        self._outputs = [name for name in self._names if self._engine.get_tensor_mode(name) != is_input]
        self._refuse_shapes(library.TensorLocation.DEVICE)
        self._types = {name: _type(self._engine, name, file) for name in self._names}
        self._buffers: dict[str, tuple[int, int]] = {}
        self._inspector, self._json = self._engine.create_engine_inspector, library.LayerInformationFormat.JSON

    def _refuse_shapes(self, device: Any) -> None:
        """An input whose values are sizes lies on the host, and its range would have to be known to the builder."""
        for name in self._names:
            if self._engine.get_tensor_location(name) != device:
                what = f"'{name}' holds sizes that shapes are computed from, which this kit does not feed"
                raise Refused(UNSUPPORTED, what, self._file.name, "fix the sizes: edgeattn rewrite --fix")

    def run(self, feeds: Arrays) -> Arrays:
        """Copy in, run, copy out, wait."""
        # An input that the graph does not use is no input of the engine.
        given = {n: np.ascontiguousarray(_exactly(v, self._types[n], n)) for n, v in feeds.items() if n in self._types}
        self._choose_profile(given)
        for name, array in given.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                what = f"input '{name}' of shape {array.shape} lies outside the profile it was built for"
                raise Refused(BAD_INPUT, what, self._file.name, "see 'profiles' in kit.json")
            self._cuda.upload(array, self._bound(name, array.nbytes))
        outputs = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if min(shape, default=0) < 0:
                what = f"output '{name}' has a shape that depends on values"
                raise Refused(UNSUPPORTED, what, self._file.name, "compute that part outside the engine")
            outputs[name] = np.empty(shape, self._types[name])
            self._bound(name, outputs[name].nbytes)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise Refused(UNSUPPORTED, "did not run: " + (self._log.said or "no reason given"), self._file.name)
        for name, array in outputs.items():
            self._cuda.download(self._buffers[name][0], array)
        self._cuda.synchronize()
        return outputs

    def _choose_profile(self, given: Arrays) -> None:
        """Take the first bucket of sizes that holds what is given; the one in use where none does, to be told which."""
        shapes = {name: array.shape for name, array in given.items()}
        fitting = [i for i, bucket in enumerate(self._profiles) if _holds(bucket, shapes)]
        if fitting and self._profile not in fitting:
            self._context.set_optimization_profile_async(fitting[0], self._cuda.stream)
            self._profile = fitting[0]

    def layers(self) -> list[Any]:
        """What the engine's inspector tells of its layers; empty where it tells nothing that can be read."""
        try:
            found = json.loads(self._inspector().get_engine_information(self._json))
            return list(found.get("Layers", []))
        except (ValueError, AttributeError):
            return []

    def _bound(self, name: str, size: int) -> int:
        address, room = self._buffers.get(name, (0, -1))
        if size > room:
            if address:
                self._cuda.synchronize()
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address


def _type(engine: Any, name: str, file: Path) -> str:
    found = str(engine.get_tensor_dtype(name).name)
    if found not in _TYPES:
        raise Refused(UNSUPPORTED, f"'{name}' is {found}, which numpy does not have", file.name)
    return _TYPES[found]


def _holds(bucket: dict[str, dict[str, list[int]]], shapes: dict[str, tuple[int, ...]]) -> bool:
    return all(
        least <= size <= largest
        for name, sizes in bucket.items()
        for least, size, largest in zip(sizes["min"], shapes.get(name, sizes["min"]), sizes["max"])
    )


def _exactly(value: Any, dtype: str, name: str) -> Any:
    """A feed in the engine's type; TensorRT 8 takes int32 where the graph says int64."""
    array = np.asarray(value).astype(dtype, copy=False)
    if array.dtype != np.asarray(value).dtype and not np.array_equal(array, value):
        what = f"input '{name}' holds values that the engine's {dtype} cannot"
        raise Refused(BAD_INPUT, what, hint="smaller numbers")
    return array


class OnnxRuntime(Executor):
    """The graph itself on this CPU: for rehearsing, never for a board's report."""

    def __init__(self, library: Any, file: Path, inputs: list[dict[str, Any]]) -> None:
        self.inputs = inputs
        settings = library.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 1
        try:
            self._session = library.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Refused(UNSUPPORTED, f"ONNX Runtime: {error}", file.name) from error
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Arrays) -> Arrays:
        """Run once."""
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, feeds)))
        except Exception as error:
            raise Refused(UNSUPPORTED, f"ONNX Runtime: {error}") from error


def opened(kit: Kit, library: str, module: Any, cuda: Cuda | None) -> dict[str, Executor]:
    """Every graph of the kit, open."""
    if cuda is None:
        return {n: OnnxRuntime(module, kit.folder / g["file"], g["inputs"]) for n, g in kit["graphs"].items()}
    row = versions.row_of(library, str(module.__version__))
    return {
        name: TensorRt(module, cuda, kit.folder / PLANS / (name + ".plan"), graph, row)
        for name, graph in kit["graphs"].items()
    }
