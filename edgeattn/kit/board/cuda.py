"""The few calls of the CUDA runtime that running an engine takes, through ctypes: no package but the library itself.

Source: CUDA Runtime API, modules 6.1 (device), 6.4 (stream), 6.5 (event) and 6.9 (memory management).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
from typing import Any

import numpy as np

from .refusal import RESOURCES, UNSUPPORTED, Refused

_PLACES = ("/usr/local/cuda/lib64/libcudart.so*", "/usr/local/cuda/targets/*/lib/libcudart.so*")
_TO_DEVICE, _TO_HOST = 1, 2  # enum cudaMemcpyKind
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor
_P = ctypes.c_void_p
_SIGNATURES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("cudaGetDeviceCount", (ctypes.POINTER(ctypes.c_int),)),
    ("cudaDeviceGetAttribute", (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int)),
    ("cudaRuntimeGetVersion", (ctypes.POINTER(ctypes.c_int),)),
    ("cudaMalloc", (ctypes.POINTER(_P), ctypes.c_size_t)),
    ("cudaFree", (_P,)),
    ("cudaMemcpyAsync", (_P, _P, ctypes.c_size_t, ctypes.c_int, _P)),
    ("cudaStreamCreate", (ctypes.POINTER(_P),)),
    ("cudaStreamSynchronize", (_P,)),
)


class Cuda:
    """The CUDA runtime with one device and one stream.

    Raises:
        Refused: no CUDA runtime or no device here.
    """

    def __init__(self) -> None:
        self._library = _open()
        for name, arguments in _SIGNATURES:
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._library.cudaGetErrorString.argtypes = (ctypes.c_int,)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int()
        if self._library.cudaGetDeviceCount(ctypes.byref(count)) or not count.value:
            raise _nothing_runs("there is no CUDA device here")
        stream = _P()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        self.stream = stream.value or 0

    @property
    def capability(self) -> str:
        """Compute capability of the device, ``8.7``."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    @property
    def version(self) -> str:
        """Version of the CUDA runtime, ``12.6``."""
        found = ctypes.c_int()
        self._call("cudaRuntimeGetVersion", ctypes.byref(found))
        return f"{found.value // 1000}.{found.value % 1000 // 10}"

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes on the device."""
        address = _P()
        self._call("cudaMalloc", ctypes.byref(address), max(size, 1))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cudaFree", address)

    def upload(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Copy a contiguous array to the device, in the stream's order."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def download(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Fill a contiguous array from the device, in the stream's order."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def synchronize(self) -> None:
        """Wait for everything in the stream."""
        self._call("cudaStreamSynchronize", self.stream)

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        if size:
            self._call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def _attribute(self, which: int) -> int:
        found = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(found), which, 0)
        return found.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code).decode(errors="replace")
            where = RESOURCES if code == _OUT_OF_MEMORY else UNSUPPORTED
            raise Refused(where, f"{name} failed: {said}", "CUDA", "free memory of the board, or reboot it")


def _open() -> Any:
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise _nothing_runs("no CUDA runtime (libcudart.so) was found")


def _candidates() -> list[str]:
    found: str | None = ctypes.util.find_library("cudart")
    plain = ["libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"]
    return plain + ([found] if found else []) + sorted(path for place in _PLACES for path in glob.glob(place))


def _nothing_runs(why: str) -> Refused:
    return Refused(UNSUPPORTED, why + ", so the engines cannot run", hint="run this on the board itself")
