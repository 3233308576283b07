"""The safetensors format: eight bytes of header length, a JSON header, then the tensors' bytes without gaps.

Read here rather than by the safetensors package so that every malformed file is named in one line, before any
native code sees it; files are written in a fixed order, so the same tensors give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BadInput, printable
from edgeattn.files import read_regular
from edgeattn.publish import new_file
from edgeattn.weights._pytorch import executable

if TYPE_CHECKING:
    import torch

MAX_HEADER = 16 << 20  # bytes; a thousand layers need about 0.2 MiB
MAX_FILE = 8 << 30  # bytes
EXECUTABLE_SUFFIXES = (".pt", ".pth", ".pt2", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        IntegrityError: the file is a pickle, a TorchScript archive or another checkpoint that can carry code.
        BadInput: missing, unreadable or malformed; the message names the tensor.
    """
    data = read_regular(path, MAX_FILE)
    refuse_executable(path, data)
    return parse(path, data)


def parse(path: Path, data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the bytes of a safetensors file; raises BadInput as ``read`` does."""
    header, start = _header(path, data)
    metadata = _metadata(path, header)
    spans = {key: _span(path, key, entry) for key, entry in header.items()}
    _check_layout(path, spans, len(data) - start)
    return {key: _tensor(data, start, *span) for key, span in spans.items()}, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file alone; raises as ``read`` does."""
    data = read_regular(path, MAX_FILE)
    refuse_executable(path, data)
    return _metadata(path, _header(path, data)[0])


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    """Taken out of the header."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "metadata that is not text")
    return metadata


def write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata as safetensors, keys sorted; an existing file is replaced whole."""
    codes = {name: code for code, name in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks, offset = [], 0
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        chunk = bytes(tensor.flatten().view(_uint8()).numpy()) if tensor.numel() else b""
        code = codes[str(tensor.dtype).removeprefix("torch.")]
        header[key] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(chunk)]}
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    with new_file(path, force=True) as building:
        building.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))


def refuse_executable(path: Path, data: bytes) -> None:
    """Raise IntegrityError for a pickle or an archive, by content or by name, before anything looks into it."""
    # A zip archive (torch.save, TorchScript, .pt2) or a pickle, which may run code when it is loaded.
    pickle = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and data[8:9] != b"{"
    named = bool(data) and path.suffix.lower() in EXECUTABLE_SUFFIXES
    if named or pickle or data[:4] == b"PK\x03\x04":
        raise executable(path)


def _header(path: Path, data: bytes) -> tuple[dict[str, Any], int]:
    """The parsed JSON header, and where the tensors' bytes begin."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MAX_HEADER or 8 + length > len(data):
        likely = "an empty file" if not data else "cut short, or not safetensors at all"
        raise _broken(path, f"a header that does not fit into its {len(data)} bytes ({likely})")
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"a header that is not JSON ({printable(str(error), 80)})") from None
    if not isinstance(header, dict):
        raise _broken(path, "a header that is not an object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        twice = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"the key '{twice}' appears twice")
    return keys


Span = tuple[str, tuple[int, ...], int, int]  # dtype, shape, first byte, last byte + 1


def _span(path: Path, key: str, entry: Any) -> Span:
    """One header entry, checked by itself."""
    try:
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise _broken(path, f"a tensor '{printable(key, 80)}' with an unknown type, shape or offset")
    size = math.prod(shape) * _item_size(dtype)
    if end - begin != size:
        raise _broken(path, f"a tensor '{printable(key, 80)}' of {end - begin} bytes where its shape needs {size}")
    return dtype, shape, begin, end


def _check_layout(path: Path, spans: Mapping[str, Span], size: int) -> None:
    """Tensors must cover the data exactly: no overlap, no hole, nothing missing, nothing trailing."""
    at = 0
    for key, (_, _, begin, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != at:
            fault = "overlaps the one before it" if begin < at else "follows a hole"
            raise _broken(path, f"a tensor '{printable(key, 80)}' that {fault}")
        at = end
    if at != size:
        raise _broken(path, f"{size} bytes of tensors where its header describes {at}")


def _tensor(data: bytes, start: int, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> torch.Tensor:
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    if begin == end:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(data[start + begin : start + end]), dtype=kind).reshape(shape)


def _item_size(dtype: str) -> int:
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    return kind.itemsize


def _uint8() -> torch.dtype:
    import torch

    return torch.uint8


def _broken(path: Path, what: str) -> BadInput:
    return BadInput(f"not a sound safetensors file: it has {what}", where=str(path), hint="download or save it again")
