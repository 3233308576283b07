"""TensorRT's own settings, as the card of ``backends/tensorrt.py`` describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgeattn.backends._tensorrt_versions import flag
from edgeattn.errors import IntegrityError, UsageError
from edgeattn.files import read_regular

_CACHE_BYTES = 1 << 30
_HARDWARE = {"same": "NONE", "same_capability": "SAME_COMPUTE_CAPABILITY", "ampere_plus": "AMPERE_PLUS"}


@dataclass(frozen=True)
class Settings:
    """What was asked of the builder; see above."""

    timing_cache: str = ""
    timing_cache_sha256: str = ""
    strict_cache: bool = False
    version_compatible: bool = False
    hardware: str = "same"
    strip: bool = False
    optimization_level: int = -1

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Settings:
        """Read settings whose names are known.

        Raises:
            UsageError: a value of another type, or none that means something.
        """
        for field in fields(cls):
            value = asked.get(field.name, field.default)
            if type(value) is not type(field.default):
                kind = {"str": "a word", "bool": "true or false", "int": "a number"}[type(field.default).__name__]
                raise UsageError(f"expected {kind}, got {value!r}", where=f"engine.{field.name}")
        found = cls(**asked)
        if found.hardware not in _HARDWARE:
            raise UsageError(
                f"unknown '{found.hardware}'", where="engine.hardware", hint=f"known: {', '.join(_HARDWARE)}"
            )
        if not -1 <= found.optimization_level <= 5:
            raise UsageError(f"{found.optimization_level} is not from 0 to 5", where="engine.optimization_level")
        if (found.strict_cache or found.timing_cache_sha256) and not found.timing_cache:
            raise UsageError("there is no cache to hold to", where="engine.strict_cache", hint="name one: timing_cache")
        return found

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
