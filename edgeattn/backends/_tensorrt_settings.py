"""TensorRT's own settings: what may be asked of its builder, and how that is told to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends._knobs import Knobs, knob
from edgeattn.backends._tensorrt_versions import flag
from edgeattn.errors import IntegrityError, UsageError
from edgeattn.files import read_regular

if TYPE_CHECKING:
    from edgeattn.backends import Options

_CACHE_BYTES = 1 << 30
_HARDWARE = {"same": "NONE", "same_capability": "SAME_COMPUTE_CAPABILITY", "ampere_plus": "AMPERE_PLUS"}


@dataclass(frozen=True)
class Settings(Knobs):
    """What was asked of the builder."""

    timing_cache: str = knob(
        "",
        "a file of measured kernels: the same cache gives the same engine. It is never written to; with what the build "
        "added it is left in the bundle as timing.cache",
    )
    timing_cache_sha256: str = knob("", "the cache must have this hash")
    strict_cache: bool = knob(False, "fail where a kernel is not in the cache, in place of measuring it")
    version_compatible: bool = knob(
        False,
        "a plan that later versions open too. It carries code for the host: it is a program, opened only where "
        "engine_host_code_allowed is set, and edgeattn never sets it",
    )
    hardware: str = knob("same", "which GPUs may run the plan", tuple(_HARDWARE))
    strip: bool = knob(False, "leave the weights out; the bundle's portable ONNX has them, and opening puts them back")
    optimization_level: int = knob(-1, "0 (fast to build) to 5 (fast to run); -1 leaves it to the builder")

    def check(self, options: Options, where: str) -> None:
        """The level is one, and a cache that something is asked of is there."""
        if not -1 <= self.optimization_level <= 5:
            raise UsageError(f"'optimization_level' is {self.optimization_level}, not from 0 to 5", where=where)
        if (self.strict_cache or self.timing_cache_sha256) and not self.timing_cache:
            raise UsageError("there is no cache to hold to", where=where, hint="name one: timing_cache")

    def apply(self, trt: Any, config: Any, engine: str) -> Any:
        """Set the builder's configuration; the timing cache that it works on, None where none was asked for.

        Raises:
            UsageError, IntegrityError: the cache cannot be read or is another one.
            Unsupported: this version has no such setting.
        """
        wanted = [("VERSION_COMPATIBLE", self.version_compatible), ("STRIP_PLAN", self.strip)]
        # REFIT alone may give other numbers than the engine it was made from (release notes 11.3); IDENTICAL does not.
        wanted += [("REFIT_IDENTICAL", self.strip), ("ERROR_ON_TIMING_CACHE_MISS", self.strict_cache)]
        for name, asked in wanted:
            if asked:
                config.set_flag(flag(trt, name, engine))
        if self.hardware != "same":
            config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[self.hardware])
        if self.optimization_level >= 0:
            config.builder_optimization_level = self.optimization_level
        return self._cache(config) if self.timing_cache else None

    def _cache(self, config: Any) -> Any:
        path = Path(self.timing_cache)
        known = read_regular(path, _CACHE_BYTES, UsageError) if self.strict_cache or path.exists() else b""
        found = hashlib.sha256(known).hexdigest()
        if self.timing_cache_sha256 and found != self.timing_cache_sha256.lower():
            raise IntegrityError(f"has sha256 {found}, not the one asked for", where=self.timing_cache)
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise UsageError("is no timing cache of this GPU and version", where=self.timing_cache)
        return cache
