"""tensorrt-rtx: NVIDIA TensorRT for RTX. Builds engines for GeForce and RTX GPUs on a machine that has none.

Engine file: ``<graph>.plan``, for one compute capability or for several at once (``tensorrt-rtx:sm89,sm120``). The
builder compiles ahead of time on the CPU; the GPU's own kernels are finished when the plan is first opened there.
It is for desktop and laptop GPUs: no Jetson (sm87) and no data centre GPU (sm90) is among its devices. Plans without
weights (TensorRT's ``strip``) it builds only beside a GPU (measured with 1.7), so that setting is left to ``tensorrt``.
"""

from __future__ import annotations

from typing import Any

from edgeattn.backends import Options
from edgeattn.backends._tensorrt import TensorRtBackend
from edgeattn.backends._tensorrt_versions import RTX, Version
from edgeattn.capabilities import closest
from edgeattn.errors import EngineFailed, MissingPackage


class TensorRtRtxBackend(TensorRtBackend):
    """The TensorRT for RTX engine."""

    name = "tensorrt_rtx"
    extra = "tensorrt-rtx"
    title = "TensorRT for RTX"
    devices = ("sm89", "sm75", "sm80", "sm86", "sm120", "sm121")
    joins = True

    def library(self) -> Any:
        """``tensorrt_rtx``."""
        try:
            import tensorrt_rtx
        except ImportError as error:
            raise MissingPackage("tensorrt_rtx_cu13", self.extra) from error
        return tensorrt_rtx

    def version(self, options: Options) -> Version:
        """Every version has been strongly typed."""
        return RTX

    def capabilities(self, options: Options) -> tuple[str, ...]:
        """Those of the target's name."""
        return tuple(options.device.split(","))

    def known_as(self, options: Options) -> str:
        """The installed version, or the newest that is known, and the compute capabilities."""
        return f"tensorrt-rtx:{closest('tensorrt-rtx', self.probe().version)},{options.device}"

    def configure(self, config: Any, options: Options) -> None:
        """Name the compute capabilities. A timing cache is never created: it asks for a GPU."""
        trt = self.library()
        wanted = self.capabilities(options)
        config.num_compute_capabilities = len(wanted)
        for i, name in enumerate(wanted):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), i):
                raise EngineFailed(f"does not build for {name}", where=self.title, hint="name other devices")


BACKEND = TensorRtRtxBackend()
