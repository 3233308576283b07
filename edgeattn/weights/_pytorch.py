"""State dicts in files of ``torch.save``: tensors and plain containers, read with ``weights_only=True`` only.

Such a file is a pickle, which can run code when it is loaded. PyTorch's restricted unpickler builds tensors and plain
containers only; whatever needs more (a whole module, a TorchScript or ``torch.export`` archive, a bare pickle) is
refused, never retried. What the file promises is compared with its size before PyTorch sees it, and what came out of
it afterwards, so neither a zip bomb nor a tensor longer than its bytes gets any further.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BadInput, IntegrityError, OutOfResources, printable

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

# How PyTorch before 1.6 begins: a protocol-2 pickle of the number 0x1950a86a20f9469cfc6c.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_SLACK = 1 << 16  # bytes of pickle, alignment and directory that are no tensor
# Where training scripts put the model's state_dict, in the order they are looked for.
_NESTS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def is_checkpoint(data: bytes) -> bool:
    """Whether bytes look like a file of ``torch.save`` (or another zip archive)."""
    return data.startswith((_ZIP, _LEGACY))


def read(path: Path, data: bytes) -> Mapping[Any, Any]:
    """What ``torch.save`` stored: a mapping, its tensors on the CPU.

    Raises:
        IntegrityError: it holds more than tensors and plain containers; nothing of it was run.
        BadInput: damaged, or no mapping. OutOfResources: it would unpack to more than it holds.
    """
    import torch

    if data.startswith(_ZIP):
        _check_archive(path, data)
    try:
        found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:
        if any(kind.__name__ == "UnpicklingError" for kind in type(error).__mro__):
            raise executable(path) from error
        raise BadInput("is a damaged PyTorch file", where=str(path), hint="copy or save it again") from error
    if not isinstance(found, Mapping):
        hint = "save model.state_dict(), as safetensors or with torch.save"
        raise BadInput(f"holds a {type(found).__name__}, not a state_dict", where=str(path), hint=hint)
    return found


def executable(path: Path) -> IntegrityError:
    """The refusal of every file that may carry code."""
    return IntegrityError("executable checkpoint", where=str(path), hint="save a state_dict as safetensors")


def _check_archive(path: Path, data: bytes) -> None:
    """Look at the zip directory: is it a plain ``torch.save``, and no bigger inside than outside?"""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise BadInput(f"is a damaged archive: {error}", where=str(path), hint="copy or save it again") from error
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "data.pkl" not in names or "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise executable(path)  # TorchScript, torch.export, or no file of torch.save at all
    size = sum(entry.file_size for entry in entries)
    if size > len(data):  # torch.save does not compress
        hint = "save the state_dict again, with torch.save or as safetensors"
        raise OutOfResources(f"would unpack from {len(data)} to {size} bytes", where=str(path), hint=hint)


def state_dict(path: Path, found: Mapping[Any, Any], size: int, note: Callable[[str], None]) -> Tensors:
    """The tensors of a state_dict, out of whatever a training script wrapped it in.

    Args:
        path: names the file in errors and notes.
        found: what the file holds.
        size: bytes of the file; its tensors cannot hold more.
        note: hears what was unwrapped.

    Raises:
        BadInput: no state_dict in it, or tensors that are not plain, dense and as long as their bytes.
    """
    import torch

    def is_state(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and bool(value)
            and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
        )

    tensors = found
    if not is_state(found):
        inside = {key: value for key, value in found.items() if is_state(value)}
        chosen = next((key for key in _NESTS if key in inside), next(iter(inside)) if len(inside) == 1 else None)
        if chosen is None:
            held = ", ".join(printable(str(key), 40) for key in list(found)[:5]) or "nothing"
            what = "holds several state_dicts" if inside else "holds no state_dict"
            raise BadInput(f"{what}: {held}", where=str(path), hint="save model.state_dict() alone")
        tensors = inside[chosen]
        note(f"{path}: the weights are its entry '{printable(str(chosen), 80)}'")
    _check_tensors(path, tensors, size)
    return {key: value.detach() for key, value in tensors.items()}


def _check_tensors(path: Path, tensors: Tensors, size: int) -> None:
    """Dense, real, and no storage longer than the file: PyTorch believes the lengths that a file claims."""
    import torch

    for key, value in tensors.items():
        if value.is_meta or value.layout is not torch.strided or value.is_quantized:
            kind = "has no values (meta)" if value.is_meta else "is sparse or quantized"
            raise BadInput(f"'{printable(key, 80)}' {kind}", where=str(path), hint="save dense tensors")
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors.values()}
    if sum(storages.values()) > size + _SLACK:
        raise BadInput("has tensors longer than the file", where=str(path), hint="copy or save it again")


def without_prefix(path: Path, tensors: Tensors, wanted: Collection[str], note: Callable[[str], None]) -> Tensors:
    """Keys without what DataParallel, torch.compile or a training wrapper put before each, if the model has no such."""
    while tensors:  # wrappers nest: compile(DataParallel(model)), and the other way round
        prefix = next((p for p in _PREFIXES if _wraps(p, tensors, wanted)), None)
        if prefix is None:
            break
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        note(f"{path}: '{prefix}' was taken off every key")
    return tensors


def _wraps(prefix: str, keys: Collection[str], wanted: Collection[str]) -> bool:
    return all(key.startswith(prefix) for key in keys) and not any(key.startswith(prefix) for key in wanted)
