"""The machine and the packages behind a measurement. Reads /proc and package metadata; imports no engine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from edgeattn.report.schema import Environment

PROC = Path("/proc")
PACKAGES = (
    *("edgeattn", "numpy", "torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "onnxruntime-gpu"),
    *("openvino", "nncf", "tensorrt", "tensorrt_rtx_cu13"),
)
# What decides whether INT8, BF16 and FP16 are fast: x86, then ARM, where the kernel has names of its own.
ISA = {
    **{flag: flag for flag in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")},
    **{"amx_tile": "amx", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16"},
    **{"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve"},
}


def describe(threads: int = 0, proc: Path = PROC) -> Environment:
    """The environment of this process, now.

    Args:
        threads: threads the engines were given, 0 if unknown.
        proc: where Linux tells about itself; without it the figures come from the standard library.
    """
    cpus = _cpus(proc)
    usable = _usable()
    mine = [c for c in cpus if int(c.get("processor", -1)) in usable] or cpus
    # A core is (package, core id); machines that do not tell have as many cores as hardware threads.
    cores = {(c["physical id"], c["core id"]) for c in mine if "physical id" in c and "core id" in c}
    flags = set((mine[0].get("flags") or mine[0].get("Features") or "").split()) if mine else set()
    return Environment(
        cpu=_cpu_name(mine),
        isa=tuple(name for flag, name in ISA.items() if flag in flags),
        cores=len(cores) or len(usable),
        logical=len(usable),
        threads=threads,
        versions=versions(),
        load=_load(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
    )


def versions() -> dict[str, str]:
    """Installed versions of the packages that shape results, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpus(proc: Path) -> list[dict[str, str]]:
    """One mapping per logical processor of /proc/cpuinfo; empty where there is none."""
    try:
        text = (proc / "cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    blocks = []
    for block in text.split("\n\n"):
        lines = [line.partition(":") for line in block.splitlines() if ":" in line]
        entry = {key.strip(): value.strip() for key, _, value in lines}
        if entry.get("processor", "").isdigit():
            blocks.append(entry)
    return blocks


def _usable() -> set[int]:
    """Logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _cpu_name(cpus: list[dict[str, str]]) -> str:
    named = next((c[key] for c in cpus for key in ("model name", "Model", "Hardware") if c.get(key)), "")
    if named:
        return named
    if cpus and "CPU part" in cpus[0]:  # ARM kernels give numbers only
        return f"ARM implementer {cpus[0].get('CPU implementer', '?')} part {cpus[0]['CPU part']}"
    return platform.processor() or platform.machine() or "unknown"


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
