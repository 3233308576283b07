"""Compiled models on disk, for one machine: beside the IR, never in its place.

A blob holds native code and weights in the layout of one CPU, and OpenVINO does not check its bytes: of 60 flips of a
single byte in one, 7 loaded and gave other answers. So each has a key (OpenVINO's build, the device, its instruction
sets, the settings, the IR it was made from) and a hash, and is imported only where both are what was written down.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends._common import refusal
from edgeattn.backends._openvino_devices import called, members
from edgeattn.backends._openvino_models import core
from edgeattn.backends._openvino_settings import planned, settings
from edgeattn.errors import IntegrityError, Unsupported
from edgeattn.phase import native

if TYPE_CHECKING:
    from edgeattn.backends import Options

_HINT = "open it without the blob, which compiles the IR beside it, or compile it again here"


def key(model: Any, options: Options, ir: Path) -> dict[str, str]:
    """What a blob depends on, each in a word."""
    import openvino as ov

    engine, devices = core(), members(options.device)
    titles = [str(engine.get_property(name.upper(), "FULL_DEVICE_NAME")).strip() for name in devices]
    sets = [sorted(engine.get_property(name.upper(), "OPTIMIZATION_CAPABILITIES")) for name in devices]
    return {
        "openvino": str(ov.get_version()),
        "device": " + ".join([options.device, *titles]),
        "instruction sets": json.dumps([*sets, _cpu_flags()]),
        "settings": json.dumps(planned(settings(model, options)), sort_keys=True),
        "ir": _sha(ir.read_bytes()),
    }


def write(compiled: Any, model: Any, options: Options, ir: Path) -> dict[str, Any]:
    """Save ``<ir>.blob`` and its key ``<ir>.blob.json``; what was written down, with the blob's hash."""
    with native("OpenVINO", "exporting the compiled model"):
        data = compiled.export_model().getvalue()
    ir.with_suffix(".blob").write_bytes(data)
    said = {"sha256": _sha(data), "key": key(model, options, ir)}
    ir.with_suffix(".blob.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    return said


def read(model: Any, options: Options, ir: Path) -> Any:
    """The compiled model of ``<ir>.blob``.

    Raises:
        Unsupported: there is none, or it was made for something else; says what differs.
        IntegrityError: its bytes are not those that were written.
    """
    blob, note = ir.with_suffix(".blob"), ir.with_suffix(".blob.json")
    if not blob.is_file() or not note.is_file():
        raise Unsupported("has no compiled blob", where=str(ir), hint="compile it with --engine blob=true")
    sha256, made_for = _noted(note)
    here = key(model, options, ir)
    for name, value in here.items():
        if made_for.get(name) != value:
            told = f": '{made_for.get(name)}', here '{value}'" if name in ("openvino", "device") else ""
            raise Unsupported(f"was compiled for another {name}{told}", where=str(blob), hint=_HINT)
    data = blob.read_bytes()  # what is hashed is what is imported, whatever happens to the file meanwhile
    if _sha(data) != sha256:
        raise IntegrityError("has changed since it was compiled", where=str(blob), hint=_HINT)
    try:
        with native("OpenVINO", "importing the compiled model"):
            # A blob does not remember its settings: imported without them, FP32 runs in BF16 where the CPU has it.
            return core().import_model(data, called(options.device), settings(model, options))
    except Exception as error:
        raise refusal("openvino", error) from error


def _noted(note: Path) -> tuple[str, dict[str, str]]:
    try:
        said = json.loads(note.read_bytes())
        return str(said["sha256"]), {str(name): str(value) for name, value in said["key"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"is no key of a blob ({error})", where=str(note), hint=_HINT) from None


def _cpu_flags() -> str:
    """The CPU's instruction sets as the kernel lists them, hashed; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return _sha(" ".join(sorted(flags.split())).encode())[:16]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
