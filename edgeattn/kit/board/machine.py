"""What board this is and how it is set, from files that anybody may read: nothing is run, nothing is changed.

Sources: Jetson Linux Developer Guide, "Power Management" (nvpmodel, jetson_clocks) and the kernel's sysfs
documentation (devfreq, cpufreq, thermal). What is not there is told as such.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

ROOT = Path("/")


def describe(root: Path = ROOT) -> dict[str, Any]:
    """Name, release, power mode, clocks and temperatures of this machine; empty or null where it does not tell."""
    model = _text(root / "proc/device-tree/model")
    release = re.search(r"R(\d+)\s.*?REVISION:\s*([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return {
        "name": model or platform.machine(),
        "jetson": "jetson" in model.lower() or release is not None,
        "l4t": "{}.{}".format(*release.groups()) if release else "",
        "power_mode": _power_mode(root),
        "clocks": _clocks(root),
        "temperatures_c": temperatures(root),
    }


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Every thermal zone in °C."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = _text(zone / "type"), _number(zone / "temp")
        if name and value is not None and value > -100_000:  # what zones that are switched off read
            found[name] = value / 1000
    return found


def environment(root: Path = ROOT) -> dict[str, Any]:
    """The report's ``environment`` but for the packages."""
    info = _text(root / "proc/cpuinfo")
    named = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", info, re.MULTILINE)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    cpu = named.group(1).strip() if named else platform.machine()
    return {"cpu": cpu, "cores": usable, "logical": usable, "load": _load(), "system": system}


def _power_mode(root: Path) -> str:
    """``0 MAXN``: the mode that nvpmodel wrote down, with its name from nvpmodel's configuration."""
    number = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not number:
        return ""
    names = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _text(root / "etc/nvpmodel.conf"))
    return "{} {}".format(number.group(1), dict(names).get(number.group(1), "")).strip()


def _clocks(root: Path) -> dict[str, Any]:
    """MHz of CPU and GPU, and whether they are held at their highest, as jetson_clocks does."""
    found: dict[str, Any] = {}
    for folder in _devices(root):
        kind = "gpu" if "devfreq" in folder.parts else "cpu"
        unit = 1e6 if kind == "gpu" else 1e3  # devfreq counts Hz, cpufreq kHz
        prefix = "" if kind == "gpu" else "scaling_"
        now, low, high = (_number(folder / (prefix + name + "_freq")) for name in ("cur", "min", "max"))
        if high is not None:
            told = {"mhz": None if now is None else now / unit, "max_mhz": high / unit, "held": low == high}
            found.setdefault(kind, dict(told, governor=_text(folder / (prefix + "governor"))))
    return found


def _devices(root: Path) -> list[Path]:
    names = re.compile("gpu|gv11b|ga10b|gb10b")
    gpus = [path for path in sorted((root / "sys/class/devfreq").glob("*")) if names.search(path.name)]
    return gpus + sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:1_000_000].decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
