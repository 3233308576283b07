"""What a session needs of CUDA, through NVIDIA's own bindings: memory, copies, a stream, events, captured graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgeattn.errors import EngineFailed, MissingPackage, OutOfResources

if TYPE_CHECKING:
    from edgeattn.program import Array

CARRIES = "copies to the GPU and back"
_NO_MEMORY = "cudaErrorMemoryAllocation"


class Cuda:
    """The CUDA runtime on one stream of its own.

    Raises:
        MissingPackage: the bindings are not installed. EngineFailed: there is no GPU that they can use.
    """

    def __init__(self) -> None:
        self.rt = _runtime()
        self.stream = self.call(self.rt.cudaStreamCreateWithFlags, self.rt.cudaStreamNonBlocking)
        weakref.finalize(self, self.rt.cudaStreamDestroy, self.stream)

    def call(self, function: Any, *arguments: Any) -> Any:
        """What a function of the runtime returns beside its error code, which is raised."""
        error, *values = function(*arguments)
        if error != self.rt.cudaError_t.cudaSuccess:
            what = f"{function.__name__}: {error.name}"
            if error.name == _NO_MEMORY:
                raise OutOfResources("the GPU ran out of memory", where="CUDA", hint="use a smaller batch or model")
            raise EngineFailed(what, where="CUDA", hint="`nvidia-smi` shows whether the GPU is well")
        return values[0] if len(values) == 1 else values

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Copy a contiguous array to the device."""
        self._copy(buffer.pointer, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def download(self, array: Array, buffer: Buffer) -> None:
        """Copy from the device into a contiguous array; done after :meth:`wait`."""
        self._copy(array.ctypes.data, buffer.pointer, array.nbytes, "cudaMemcpyDeviceToHost")

    def move(self, target: Buffer, source: Buffer, size: int) -> None:
        """Copy on the device."""
        self._copy(target.pointer, source.pointer, size, "cudaMemcpyDeviceToDevice")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        if size:
            which = getattr(self.rt.cudaMemcpyKind, kind)
            self.call(self.rt.cudaMemcpyAsync, target, source, size, which, self.stream)

    def wait(self) -> None:
        """Until all that was queued is done."""
        self.call(self.rt.cudaStreamSynchronize, self.stream)


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingPackage("cuda-bindings", "cuda", why="it carries tensors to the GPU") from error
    return runtime


class Buffer:
    """Memory on the device, freed with the object; it only ever grows."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self.pointer, self.size = cuda, 0, 0
        self._free: Callable[[], object] = int

    def hold(self, size: int) -> bool:
        """Make room for ``size`` bytes; whether the address is another one now."""
        if self.pointer and size <= self.size:
            return False
        if self.pointer:
            self._free()
        self.size = max(size, 1)
        self.pointer = int(self._cuda.call(self._cuda.rt.cudaMalloc, self.size))
        self._free = weakref.finalize(self, self._cuda.rt.cudaFree, self.pointer)
        return True


class Stopwatch:
    """The device's own time of what is queued on a stream: an event before it, an event behind it.

    Args:
        stream: which one, by its handle; by default that of ``cuda``.
    """

    def __init__(self, cuda: Cuda, stream: Any = None) -> None:
        self._cuda, self._stream = cuda, cuda.stream if stream is None else stream
        self._began, self._ended = (self._event() for _ in range(2))

    def _event(self) -> Any:
        event = self._cuda.call(self._cuda.rt.cudaEventCreate)
        weakref.finalize(self, self._cuda.rt.cudaEventDestroy, event)
        return event

    def start(self) -> None:
        """What is queued from here on counts."""
        self._cuda.call(self._cuda.rt.cudaEventRecord, self._began, self._stream)

    def stop(self) -> float:
        """Milliseconds that the device spent since :meth:`start`, once all of it is done; resolves half a µs."""
        rt = self._cuda.rt
        self._cuda.call(rt.cudaEventRecord, self._ended, self._stream)
        self._cuda.call(rt.cudaEventSynchronize, self._ended)
        return float(self._cuda.call(rt.cudaEventElapsedTime, self._began, self._ended))


class Replay:
    """Work on a stream, captured once and launched as one: a step of a decoder is bound by its launches."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._graphs = cuda, dict[object, Any]()

    def forget(self) -> None:
        """Addresses changed: what was captured is wrong."""
        for captured in self._graphs.values():
            self._cuda.call(self._cuda.rt.cudaGraphExecDestroy, captured)
        self._graphs.clear()

    def __contains__(self, key: object) -> bool:
        return key in self._graphs

    def run(self, key: object) -> None:
        """Launch what was captured under ``key``."""
        self._cuda.call(self._cuda.rt.cudaGraphLaunch, self._graphs[key], self._cuda.stream)

    def capture(self, key: object, work: Any) -> None:
        """Record what ``work()`` queues on the stream; nothing runs."""
        rt, stream = self._cuda.rt, self._cuda.stream
        mode = rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.call(rt.cudaStreamBeginCapture, stream, mode)
        try:
            work()
        finally:
            graph = self._cuda.call(rt.cudaStreamEndCapture, stream)
        self._graphs[key] = self._cuda.call(rt.cudaGraphInstantiate, graph, 0)
        self._cuda.call(rt.cudaGraphDestroy, graph)
