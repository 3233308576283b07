"""Trained checkpoints: safetensors, or a state_dict of ``torch.save``; tensors and never code.

``load`` fills a module from a shipped checkpoint or a user's file; ``read`` and ``write`` know safetensors, the format
of what is shipped. What a file is shows in its content, whatever its name. One of ``torch.save`` is read as tensors and
plain containers only (``weights_only=True``); all else that can carry code is refused and never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.errors import BadInput, UnknownName
from edgeattn.files import read_regular
from edgeattn.weights import _pytorch
from edgeattn.weights._format import MAX_FILE, parse, read, read_metadata, refuse_executable, write

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["load", "locate", "metadata", "names", "read", "write"]

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped checkpoints, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def locate(name_or_path: str | Path) -> Path:
    """The file of a shipped checkpoint's name, or the path itself.

    Raises:
        UnknownName: neither a shipped checkpoint nor anything that looks like a path.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in names():
        return FOLDER / f"{name_or_path}.safetensors"
    if path.suffix or len(path.parts) > 1 or path.exists():
        return path
    raise UnknownName("weights", str(name_or_path), names())


def load(
    module: nn.Module, name_or_path: str | Path, strict: bool = True, note: Callable[[str], None] | None = None
) -> Mapping[str, str]:
    """Copy a checkpoint into ``module`` in place.

    Args:
        module: any module on a real device.
        name_or_path: a name of ``names()``, or a file with the module's state_dict: safetensors, or of ``torch.save``.
        strict: missing and extra keys are errors; otherwise they are left alone. Shapes and dtypes must always agree.
        note: hears what was unwrapped: an entry such as ``state_dict``, a prefix such as ``module.``.

    Returns:
        The checkpoint's metadata: task, metric, score, seed, torch version, source digest for the shipped ones.

    Raises:
        UnknownName: no such shipped checkpoint. IntegrityError: an executable checkpoint, which was not run.
        BadInput: not a sound file, or keys, shapes or dtypes differ; up to five are listed.
        OutOfResources: it would unpack to more than it holds.
    """
    path = locate(name_or_path)
    wanted = module.state_dict()
    note = note or (lambda _text: None)
    tensors, metadata = _tensors(path, note)
    tensors = _pytorch.without_prefix(path, tensors, wanted, note)
    _check(path, wanted, tensors, strict)
    module.load_state_dict(dict(tensors), strict=False)
    return metadata


def metadata(name: str) -> Mapping[str, str]:
    """What a shipped checkpoint says of itself (task, metric, score …), without its tensors or torch."""
    return read_metadata(locate(name))


def _tensors(path: Path, note: Callable[[str], None]) -> tuple[Mapping[str, torch.Tensor], Mapping[str, str]]:
    data = read_regular(path, MAX_FILE)
    if not _pytorch.is_checkpoint(data):
        refuse_executable(path, data)
        return parse(path, data)
    return _pytorch.state_dict(path, _pytorch.read(path, data), len(data), note), {}


def _check(path: Path, wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], strict: bool) -> None:
    """Raise BadInput that lists what differs, the worst kind first."""
    complaints: list[str] = []
    if strict:
        complaints += [f"missing '{key}'" for key in wanted if key not in found]
        complaints += [f"extra '{key}'" for key in found if key not in wanted]
    for key in wanted.keys() & found.keys():
        have, want = found[key], wanted[key]
        if want.is_meta:
            complaints.append(f"'{key}' lies on the meta device")
        elif have.shape != want.shape:
            complaints.append(f"'{key}' has shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        elif have.dtype != want.dtype:
            complaints.append(f"'{key}' has dtype {have.dtype}, expected {want.dtype}".replace("torch.", ""))
    if complaints:
        raise BadInput(
            f"the weights do not fit the model: {_first(complaints)}",
            where=str(path),
            hint="use the configuration these weights were trained with",
        )


def _first(items: Iterable[str], most: int = 5) -> str:
    shown = list(items)
    return ", ".join(shown[:most]) + (f", and {len(shown) - most} more" if len(shown) > most else "")
