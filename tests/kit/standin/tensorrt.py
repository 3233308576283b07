"""Stands in for TensorRT 10.3 where none can be had: its Python API as documented, computed by ONNX Runtime.

It shows that a kit's scripts call the API in the order and with the types that its reference asks for; what TensorRT
itself makes of a graph it does not show. "Device" memory is the host's, by ``cudart.c``.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = "10.3.0.30"


class _Flag(enum.IntEnum):
    STRONGLY_TYPED = 1
    TF32 = 7


NetworkDefinitionCreationFlag = BuilderFlag = _Flag
ProfilingVerbosity = SimpleNamespace(DETAILED=2)
MemoryPoolType = SimpleNamespace(WORKSPACE=0)
LayerInformationFormat = SimpleNamespace(JSON=1)
TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
TensorLocation = enum.Enum("TensorLocation", "DEVICE HOST")
DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 INT64 BOOL")
_TYPES = {"tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64, "tensor(bool)": DataType.BOOL}
_NUMPY = {DataType.FLOAT: np.float32, DataType.INT64: np.int64, DataType.BOOL: np.bool_}


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    return isinstance(logger, ILogger) and not namespace


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 1 << _Flag.STRONGLY_TYPED
        return SimpleNamespace(model=None)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        dynamic = [v.name for v in network.model.graph.input if any(d.dim_param for d in v.type.tensor_type.shape.dim)]
        if any(set(dynamic) != set(shapes) for shapes in config.shapes or [{}]):
            self._logger.log(ILogger.ERROR, "network has dynamic inputs, but no optimization profile has been defined")
            return None
        assert not config.tf32
        head = json.dumps({"shapes": config.shapes}).encode()
        config.cache.known += b"timed"
        return head + b"\n" + network.model.SerializeToString()


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True))
        self.shapes[name] = [least, best, most]


class Cache:
    def __init__(self, known: bytes) -> None:
        self.known = known

    def serialize(self) -> bytes:
        return self.known


class Config:
    profiling_verbosity = 0
    tf32 = True

    def __init__(self) -> None:
        self.shapes: list[dict[str, Any]] = []
        self.cache = Cache(b"")

    def clear_flag(self, flag: _Flag) -> None:
        self.tf32 = flag != _Flag.TF32

    def add_optimization_profile(self, profile: Profile) -> None:
        self.shapes.append(profile.shapes)

    def create_timing_cache(self, known: bytes) -> Cache:
        return Cache(known)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return not ignore_mismatch

    def get_timing_cache(self) -> Cache:
        return self.cache


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, _logger: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        model = onnx.load(path)
        self._network.model = model
        self._network.num_inputs = len(model.graph.input)
        self._network.get_input = model.graph.input.__getitem__
        return True


class Runtime:
    engine_host_code_allowed = True

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        head, newline, model = plan.partition(b"\n")
        if not newline or self.engine_host_code_allowed:
            self._logger.log(ILogger.ERROR, "Serialization assertion failed")
            return None
        return Engine(json.loads(head)["shapes"], model)


class Engine:
    def __init__(self, shapes: list[dict[str, Any]], model: bytes) -> None:
        self.shapes, self.model = shapes, model
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.ends = {v.name: v for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        self._inputs = {v.name for v in self.session.get_inputs()}
        self.num_io_tensors = len(self.ends)

    def get_tensor_name(self, index: int) -> str:
        return list(self.ends)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:  # type: ignore[valid-type]
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, _name: str) -> TensorLocation:  # type: ignore[valid-type]
        return TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> DataType:  # type: ignore[valid-type]
        return _TYPES[self.ends[name].type]

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> SimpleNamespace:
        nodes = onnx.load_from_string(self.model).graph.node
        layers = [
            {
                "Name": f"__myl_{i}",
                "LayerType": node.op_type,
                "Inputs": [{"Format/Datatype": "Float"}],
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
            for i, node in enumerate(nodes)
        ]
        return SimpleNamespace(get_engine_information=lambda _format: json.dumps({"Layers": layers}))


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        known = (self._engine.shapes or [{}])[self._profile]
        least, _, most = known.get(name, (shape, shape, shape))
        self._shapes[name] = shape
        return all(a <= size <= c for a, size, c in zip(least, shape, most, strict=True))

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._profile = profile
        return stream == 0x51

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        zeros = {n: np.zeros(s, _NUMPY[self._engine.get_tensor_dtype(n)]) for n, s in self._shapes.items()}
        (value,) = self._engine.session.run([name], zeros)
        return tuple(value.shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {name: self._array(name, shape) for name, shape in self._shapes.items()}
        names = [v.name for v in self._engine.session.get_outputs()]
        for name, value in zip(names, self._engine.session.run(names, feeds), strict=True):
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return stream == 0x51

    def _array(self, name: str, shape: tuple[int, ...]) -> Any:
        kind = np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])
        size = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(ctypes.string_at(self._addresses[name], size), kind).reshape(shape)
