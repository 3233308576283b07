"""Which NVIDIA GPUs this machine has, asked of the driver itself: no package is needed, and nothing raises."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache

from edgeattn.backends import Availability
from edgeattn.errors import Unsupported

_MAJOR, _MINOR = 75, 76  # CUdevice_attribute, cuda.h


@cache
def capabilities() -> tuple[str, ...]:
    """The compute capability of each GPU, ``sm89``; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return ()
        return tuple(f"sm{_attribute(driver, _MAJOR, i)}{_attribute(driver, _MINOR, i)}" for i in range(count.value))
    except (OSError, AttributeError):
        return ()


def _attribute(driver: ctypes.CDLL, which: int, number: int) -> int:
    device, value = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value


def runs(wanted: tuple[str, ...]) -> Availability:
    """Whether the first GPU here is one of ``wanted``; any is right where none is named."""
    here = capabilities()
    if not here:
        hint = f"go on where {' or '.join(wanted) or 'one'} is"
        return Availability(False, why="this machine has no NVIDIA GPU", hint=hint)
    if wanted and here[0] not in wanted:
        why = f"the GPU of this machine is {here[0]}, and the engine is for {' and '.join(wanted)}"
        return Availability(False, why=why, hint=f"build it for {here[0]} too")
    if not _bindings():
        return Availability(False, why="CUDA's bindings are not installed", hint="pip install 'edgeattn[cuda]'")
    return Availability(True, version=here[0])


def _bindings() -> bool:
    """Whether tensors can be carried to the GPU."""
    try:
        return importlib.util.find_spec("cuda.bindings") is not None
    except ImportError:
        return False


def require(wanted: tuple[str, ...], engine: str) -> None:
    """Refuse to open an engine where it does not run.

    Raises:
        Unsupported: with the reason.
    """
    here = runs(wanted)
    if not here.available:
        raise Unsupported(here.why, where=engine, hint=here.hint)
