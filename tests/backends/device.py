"""A GPU in the host's memory: CUDA's runtime and an engine as a session of TensorRT uses them.

What runs here is the session's own logic (which bytes go where, what is captured, which profile is taken); what the
real library does is not shown by it.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

STREAM = 7
KINDS = {"float32": "FLOAT", "int64": "INT64"}
Compute = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Runtime:
    """``cuda.bindings.runtime``: every function returns an error code and its values."""

    def __init__(self) -> None:
        self.cudaError_t = SimpleNamespace(cudaSuccess=SimpleNamespace(name="cudaSuccess"))
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
        )
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.cudaStreamNonBlocking = 1
        self.copies: Counter[str] = Counter()
        self.launched = 0
        self.now, self.events = 0.0, dict[int, float]()
        self.capturing: list[Callable[[], None]] | None = None
        self.memory: dict[int, Any] = {}

    def _ok(self, *values: Any) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess, *values)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._ok(STREAM)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._ok()

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._ok()

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        room = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(room)] = room
        return self._ok(ctypes.addressof(room))

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        del self.memory[pointer]
        return self._ok()

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[Any, ...]:
        ctypes.memmove(target, source, size)
        self.copies[kind] += 1
        return self._ok()

    def cudaEventCreate(self) -> tuple[Any, ...]:
        event = len(self.events) + 1
        self.events[event] = float("nan")
        return self._ok(event)

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        return self._ok()

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        """``now`` moves by ``milliseconds`` of each computation on the engine's stream alone."""
        self.events[event] = self.now if stream == STREAM else 0.0
        return self._ok()

    def cudaEventSynchronize(self, event: int) -> tuple[Any, ...]:
        return self._ok()

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        return self._ok(self.events[end] - self.events[start])

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self.capturing = []
        return self._ok()

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        work, self.capturing = self.capturing, None
        return self._ok(work)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return self._ok(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._ok()

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._ok()

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:
        self.launched += 1
        for work in graph:
            work()
        return self._ok()


class Context:
    """An execution context: computes on the addresses that it was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.active_optimization_profile = engine, 0
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.active_optimization_profile = number
        return True

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if size < 0 else size for size in self.engine.tensors[name][1])

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.runtime.capturing is None:
            self._compute(dict(self.addresses))
        else:
            addresses = dict(self.addresses)
            self.engine.runtime.capturing.append(lambda: self._compute(addresses))
        return True

    def _compute(self, addresses: Mapping[str, int]) -> None:
        reads = [name for name, (mode, _, _) in self.engine.tensors.items() if mode == "in"]
        self.engine.runtime.now += self.engine.milliseconds
        values = self.engine.compute({name: self._view(name, addresses).copy() for name in reads})
        for name, value in values.items():
            self._view(name, addresses)[...] = value

    def _view(self, name: str, addresses: Mapping[str, int]) -> np.ndarray:
        shape = self.shapes.get(name) or self.get_tensor_shape(name)
        kind = np.dtype(self.engine.tensors[name][2])
        size = int(np.prod(shape)) * kind.itemsize
        room = (ctypes.c_char * size).from_address(addresses[name])
        return np.frombuffer(room, kind).reshape(shape)


class Engine:
    """``ICudaEngine`` of ``tensors``: name -> (in or out, shape with -1 for the batch, NumPy type).

    A run takes ``milliseconds`` of the device's time; copies take none.
    """

    def __init__(self, runtime: Runtime, tensors: Mapping[str, tuple[str, tuple[int, ...], str]], compute: Compute):
        self.runtime, self.tensors, self.compute = runtime, tensors, compute
        self.num_io_tensors = len(tensors)
        self.milliseconds = 2.5

    def get_tensor_name(self, i: int) -> str:
        return list(self.tensors)[i]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=KINDS[self.tensors[name][2]])

    def create_execution_context(self) -> Context:
        return Context(self)


PACKAGE = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"))
"""As much of ``tensorrt`` as an open session asks for; without ``CudaGraphStrategy``, as before TensorRT for RTX."""
