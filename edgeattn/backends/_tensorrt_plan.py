"""Plans on disk: the engine file, and beside it what it is (``main.plan.json``), which is checked before it is opened.

A plan is native code's own format and has no checksum. Whatever opens one gets bytes whose hash is that of the build,
made by the version that is here, for the GPU that is here; anything else is refused in Python.

Header of TensorRT for RTX (measured with 1.7): ``vtrt``, u32 0, u64 2, u64 length of the file, four bytes of version,
``vtrt``, u32 with a bit for each compute capability. That of TensorRT is not documented, and is left to its hash.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgeattn.errors import BadInput, EngineFailed, IntegrityError, printable
from edgeattn.files import lstat_mode, read_regular

_MAGIC = b"vtrt"
_HEADER = struct.Struct("<4sIQQ4B4sI")
_BITS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_LARGEST, _FACTS = 64 << 30, 1 << 20


@dataclass(frozen=True)
class Facts:
    """What a plan is.

    Attributes:
        engine: ``tensorrt`` or ``tensorrt_rtx``. version: the builder's. sha256, bytes: of the plan.
        capabilities: compute capabilities that it was built for; none where the library is to say which may open it.
        movable: whether other versions may open it. stripped: whether its weights were left out.
        profiles: sizes of dynamic dimensions, a bucket each. tensors: the dimensions of inputs and outputs by name.
        weights: sha256 of the ONNX that it was built from, which holds the weights of a stripped plan.
    """

    engine: str
    version: str
    sha256: str
    bytes: int
    capabilities: tuple[str, ...]
    movable: bool = False
    stripped: bool = False
    profiles: tuple[Mapping[str, tuple[int, int, int]], ...] = ()
    tensors: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    weights: str = ""


@dataclass(frozen=True)
class Header:
    """What a plan of TensorRT for RTX says of itself."""

    version: str
    capabilities: tuple[str, ...]
    bytes: int


def header(data: bytes) -> Header | None:
    """The header of a plan of TensorRT for RTX; None where it is none."""
    if len(data) < _HEADER.size:
        return None
    magic, zero, _, length, a, b, c, d, again, bits = _HEADER.unpack_from(data)
    if magic != _MAGIC or again != _MAGIC or zero:
        return None
    return Header(f"{a}.{b}.{c}.{d}", tuple(name for i, name in enumerate(_BITS) if bits >> i & 1), length)


def write(plan: bytes, file: Path, known: Facts) -> None:
    """Write a plan and what it is."""
    file.write_bytes(plan)
    _beside(file).write_text(json.dumps(asdict(known), indent=1) + "\n", encoding="utf-8")


def facts(file: Path) -> Facts:
    """What a plan is, as its builder left it.

    Raises:
        BadInput: there is no such note, or it is none.
    """
    beside = _beside(file)
    hint = "give the bundle as it was written, or build the engine again"
    if lstat_mode(file) is not None and lstat_mode(beside) is None:
        raise BadInput(
            f"is a plan without {beside.name}, which says what built it and for what", where=str(file), hint=hint
        )
    try:
        values = json.loads(read_regular(beside, _FACTS))
        buckets = tuple({n: (int(a), int(b), int(c)) for n, (a, b, c) in p.items()} for p in values["profiles"])
        tensors = {name: tuple(dims) for name, dims in values["tensors"].items()}
        capabilities = tuple(map(str, values["capabilities"]))
        known = Facts(**{**values, "profiles": buckets, "tensors": tensors, "capabilities": capabilities})
        texts = (known.engine, known.version, known.sha256)
        if not all(isinstance(t, str) for t in texts) or not isinstance(known.bytes, int):
            raise TypeError("a value of another type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"does not say what the plan is: {error}", where=str(beside), hint=hint) from None
    return known


def read(file: Path, engine: str, version: str) -> tuple[bytes, Facts]:
    """The bytes of a plan that this machine's library may be given.

    Args:
        file: the plan. engine: registry name of the engine that opens it. version: the one that is here.

    Raises:
        BadInput: no such file, or nothing that says what it is. IntegrityError: its bytes are not those of the build.
        EngineFailed: another engine or version built it.
    """
    known = facts(file)
    data = read_regular(file, _LARGEST)
    if len(data) != known.bytes or hashlib.sha256(data).hexdigest() != known.sha256:
        cut = f"has {len(data)} bytes of {known.bytes}" if len(data) != known.bytes else "was altered"
        raise IntegrityError(f"{cut} since it was built", where=str(file), hint="take it from its source again")
    _fits(file, known, header(data), engine, version)
    return data, known


def weights(file: Path, known: Facts) -> Path | None:
    """The ONNX beside a stripped plan in its bundle; None where the plan has its weights.

    Raises:
        IntegrityError: it is gone, or is not the one that the plan was built from.
    """
    if not known.stripped:
        return None
    onnx = file.parent.parent / "portable" / f"{file.stem}.onnx"
    if hashlib.sha256(read_regular(onnx, _LARGEST, IntegrityError)).hexdigest() != known.weights:
        raise IntegrityError("does not hold the weights that the plan was stripped of", where=str(onnx))
    return onnx


def _fits(file: Path, known: Facts, told: Header | None, engine: str, version: str) -> None:
    built = f"{known.engine} {known.version}"
    if known.engine != engine or (known.version != version and not known.movable):
        what = f"was built by {printable(built, 80)}, and {engine} {version} here cannot open it"
        raise EngineFailed(what, where=str(file), hint="build it again with the version that runs it")
    if engine == "tensorrt_rtx" and (
        told is None
        or told.bytes != known.bytes
        or told.version != known.version
        or set(told.capabilities) != set(known.capabilities)
    ):
        raise IntegrityError("is not the plan that the file beside it describes", where=str(file))


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")
