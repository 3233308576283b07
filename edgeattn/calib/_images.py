"""A folder of images, resized, cropped and normalised to a model's one image input.

Every image below the folder in the order of its path. Rotated as its EXIF says, converted to RGB (or gray where the
input has one channel; transparency is dropped, 16-bit values are scaled to 8), its shorter side resized to fill the
input, the centre cropped. How pixels become input values must be said, because no file tells and a guess would set
wrong ranges.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.calib._npz import spread
from edgeattn.errors import BadInput, MissingPackage, OutOfResources, UsageError, printable
from edgeattn.program import Case

if TYPE_CHECKING:
    from edgeattn.program import Array, TensorSpec

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000  # 300 MB once it is unpacked
_OPEN_SIZE = 224  # of a model that takes images of any size
PRESETS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0,), (1.0,)),
    "signed": ((0.5,), (0.5,)),
    "raw": ((0.0,), (1 / 255,)),
}
_HINT = "imagenet, unit (0 to 1), signed (-1 to 1), raw (0 to 255) or MEAN/STD such as 0.5,0.5,0.5/0.2,0.2,0.2"


@dataclass(frozen=True)
class Pixels:
    """How pixels become input values: ``(pixel / 255 - mean) / std``, a value or three.

    Attributes:
        mean, std: by channel, in the order red, green, blue. bgr: the input wants blue first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    @classmethod
    def parse(cls, text: str) -> Pixels:
        """``imagenet``, ``unit``, ``signed``, ``raw`` or ``MEAN/STD``, and ``:bgr`` behind it.

        Raises:
            UsageError: none of these.
        """
        name, _, order = text.partition(":")
        if order not in ("", "bgr"):
            raise UsageError(f"unknown order '{printable(order, 40)}'", where="--pixels", hint="known: bgr")
        if name in PRESETS:
            return cls(*PRESETS[name], order == "bgr")
        numbers = r"-?[0-9]*\.?[0-9]+(?:e-?[0-9]+)?"
        match = re.fullmatch(rf"({numbers}(?:,{numbers}){{0,2}})/({numbers}(?:,{numbers}){{0,2}})", name)
        parts = [tuple(float(n) for n in group.split(",")) for group in match.groups()] if match else []
        if not parts or {len(p) for p in parts} - {1, 3} or not all(0 < s < np.inf for s in parts[1]):
            what = f"'{printable(text, 80)}' does not say how pixels become input values" if text else "is missing"
            raise UsageError(what, where="--pixels", hint=_HINT)
        return cls(parts[0], parts[1], order == "bgr")

    def applied(self, image: Array, dtype: str) -> Array:
        """``(H, W, C)`` uint8 -> the same in ``dtype``; integers stay as they are."""
        ordered = image[..., ::-1] if self.bgr else image
        if np.dtype(dtype).kind != "f":
            return ordered.astype(dtype)
        mean, std = (np.asarray(v[::-1] if self.bgr else v, np.float32) for v in (self.mean, self.std))
        return np.asarray((ordered.astype(np.float32) / 255 - mean) / std, dtype)


def cases(folder: Path, specs: Sequence[TensorSpec], samples: int, pixels: str) -> Iterator[Case]:
    """One case an image, spread evenly over the folder.

    Raises:
        UsageError: the model does not take one image, or ``pixels`` says not how. BadInput: no image, or one that
        cannot be read, by name and number. OutOfResources: one of more than 100 million pixels.
    """
    spec, channels_first = _image_input(specs, folder)
    channels, height, width = spec.shape[1:] if channels_first else (spec.shape[3], *spec.shape[1:3])
    size = tuple(d if isinstance(d, int) else _OPEN_SIZE for d in (width, height))
    if not pixels and np.dtype(spec.dtype).kind != "f":
        pixels = "raw"
    said = Pixels.parse(pixels)
    if channels == 1 and len(said.mean) + len(said.std) > 2:
        raise UsageError(f"'{printable(pixels, 80)}' is for three channels", where="--pixels", hint=f"{spec} has one")
    files = _files(folder)
    for number in spread(len(files), samples):
        image = _decoded(files[number], int(number), (size[0], size[1]), "L" if channels == 1 else "RGB")
        values = said.applied(image, spec.dtype)
        yield Case("calibration", {spec.name: (values.transpose(2, 0, 1) if channels_first else values)[None]})


def _image_input(specs: Sequence[TensorSpec], folder: Path) -> tuple[TensorSpec, bool]:
    """The one image input, and whether its channels come first."""
    if len(specs) == 1 and len(specs[0].shape) == 4:
        shape = specs[0].shape
        for axis in (1, 3):
            if shape[axis] in (1, 3):
                return specs[0], axis == 1
    what = f"is a folder, and this model does not take one image: {', '.join(map(str, specs))}"
    raise UsageError(what, where=str(folder), hint="give an .npz or your file.py:function")


def _files(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    if not found:
        hint = f"images end in {', '.join(SUFFIXES)}"
        raise BadInput("holds no image", where=str(folder), hint=hint)
    return sorted(found)


def _decoded(file: Path, number: int, size: tuple[int, int], mode: str) -> Array:
    """``(H, W, C)`` uint8 of a file; ``size`` is width and height."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackage("pillow", "images", why="a folder of images is read with it") from error
    where = f"{file} (sample {number})"
    if not file.is_file():
        raise BadInput("is no regular file", where=where, hint="remove it from the folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as opened:
                _bounded(opened.size, where)
                opened.draft("RGB", (2 * size[0], 2 * size[1]))  # JPEG: unpack no finer than is needed
                image = _eight_bit(ImageOps.exif_transpose(opened), where).convert(mode)
                fitted = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    except (BadInput, OutOfResources, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise OutOfResources(str(error), where=where, hint="remove it from the folder") from error
    except Exception as error:  # decoders of damaged files raise whatever they come upon
        what = f"cannot be read as an image: {printable(str(error), 160) or type(error).__name__}"
        raise BadInput(what, where=where, hint="remove it from the folder, or mend it") from error
    return np.atleast_3d(np.asarray(fitted))


def _bounded(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        what = f"would unpack to {size[0]} x {size[1]} pixels"
        raise OutOfResources(what, where=where, hint=f"at most {MAX_PIXELS // 1_000_000} million are read")


def _eight_bit(image: Any, where: str) -> Any:
    """An image that converts to RGB by value: 16-bit gray is scaled, which PIL would cut off."""
    from PIL import Image

    if image.mode == "F":
        raise BadInput("holds floating-point pixels", where=where, hint="save it with 8 or 16 bits, or give an .npz")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
