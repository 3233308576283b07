"""Folders of images: what comes out for every kind of image, and how damaged ones are told."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from edgeattn import calib
from edgeattn.errors import BadInput, EdgeattnError, OutOfResources, UsageError
from edgeattn.program import TensorSpec

Image = pytest.importorskip("PIL.Image", reason="needs the `images` extra")

SIZE = 16
FIRST = [TensorSpec("image", "float32", ("batch", 3, SIZE, SIZE))]
RED = (250, 20, 60)


def read(folder: Path, pixels: str = "raw", specs: list[TensorSpec] = FIRST, samples: int = 99) -> np.ndarray:
    return np.concatenate([next(iter(c.feeds.values())) for c in calib.cases(str(folder), specs, samples, pixels)])


def plain(mode: str = "RGB", color: object = RED, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.new(mode, size, color)


def test_images_come_in_the_order_of_their_paths_spread_evenly(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        plain(color=(number, 0, 0)).save(tmp_path / str(number % 2) / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert read(tmp_path)[:, 0, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]
    assert read(tmp_path, samples=3)[:, 0, 0, 0].tolist() == [0, 4, 3]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("raw", RED),
        ("unit", [c / 255 for c in RED]),
        ("signed", [c / 127.5 - 1 for c in RED]),
        ("imagenet", [(250 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (60 / 255 - 0.406) / 0.225]),
        ("0.5/0.25", [(c / 255 - 0.5) / 0.25 for c in RED]),
        ("0.1,0.2,0.3/1,2,4", [(RED[0] / 255 - 0.1), (RED[1] / 255 - 0.2) / 2, (RED[2] / 255 - 0.3) / 4]),
        ("0.1,0.2,0.3/1,2,4:bgr", [(RED[2] / 255 - 0.3) / 4, (RED[1] / 255 - 0.2) / 2, RED[0] / 255 - 0.1]),
    ],
)
def test_pixels_become_what_was_asked(pixels: str, expected: list[float], tmp_path: Path) -> None:
    plain().save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path, pixels)[0, :, 3, 5], expected, rtol=1e-5, atol=1e-6)  # float32


def test_the_layout_and_type_are_the_inputs(tmp_path: Path) -> None:
    plain().save(tmp_path / "a.png")
    last = [TensorSpec("image", "uint8", (1, SIZE, 8, 3))]
    assert read(tmp_path, "", last).shape == (1, SIZE, 8, 3)
    assert read(tmp_path, "", last)[0, 0, 0].tolist() == list(RED)
    gray = [TensorSpec("image", "float32", ("n", 1, SIZE, SIZE))]
    assert read(tmp_path, "unit", gray).shape == (1, 1, SIZE, SIZE)


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (plain("L", 90), "png", (90, 90, 90)),
        (plain("1", 1), "png", (255, 255, 255)),
        (plain("RGBA", (*RED, 0)), "png", RED),
        (plain("LA", (90, 10)), "png", (90, 90, 90)),
        (plain().convert("P"), "gif", None),
        (plain("CMYK", (0, 255, 255, 0)), "jpg", (255, 0, 0)),
        (Image.fromarray(np.full((SIZE, SIZE), 257 * 90, np.uint16)), "png", (90, 90, 90)),
        (plain(size=(1, 1)), "png", RED),
        (plain(size=(3, 400)), "png", RED),
    ],
)
def test_every_kind_of_image_becomes_rgb(image, suffix: str, expected, tmp_path: Path) -> None:
    image.save(tmp_path / f"a.{suffix}")
    found = read(tmp_path)[0, :, SIZE // 2, SIZE // 2]
    if expected is not None:
        np.testing.assert_allclose(found, expected, atol=3)  # JPEG rounds


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.array([[[255] * 3, [0] * 3]], np.uint8), 8, 1).repeat(SIZE, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    turned = read(tmp_path)[0, 0]
    assert turned[1].mean() > 200
    assert turned[-2].mean() < 50


def test_the_shorter_side_fills_the_input_and_the_centre_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((SIZE, 3 * SIZE, 3), np.uint8)
    wide[:, SIZE : 2 * SIZE] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path), 200, rtol=1e-6)  # float32


def png(width: int, height: int) -> bytes:
    """The head of a PNG of that size, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", BadInput),
        (b"hello, I am no image", BadInput),
        (png(40, 40), BadInput),
        (png(0, 0), BadInput),
        (png(60_000, 60_000), OutOfResources),
        (png(12_000, 12_000), OutOfResources),
    ],
)
def test_a_damaged_image_is_told_by_name_and_number(data: bytes, kind: type[EdgeattnError], tmp_path: Path) -> None:
    plain().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(data)
    with pytest.raises(kind, match=r"b\.png \(sample 1\)") as told:
        read(tmp_path)
    assert told.value.exit_code == (5 if kind is OutOfResources else 3)


def test_a_truncated_photograph_is_not_half_gray(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"a\.jpg \(sample 0\): cannot be read as an image"):
        read(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadInput, match="is no regular file"):
        read(tmp_path)


def test_an_empty_folder_and_a_model_of_no_image_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no image"):
        read(tmp_path)
    with pytest.raises(UsageError, match="this model does not take one image"):
        read(tmp_path, "raw", [TensorSpec("x", "float32", ("batch", 5))])


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ("", "--pixels: is missing; imagenet, unit"),
        ("imagenett", "'imagenett' does not say how pixels become input values"),
        ("0.5/0", "does not say how"),
        ("0.5,0.5/0.5", "does not say how"),
        ("unit:gbr", "unknown order 'gbr'; known: bgr"),
    ],
)
def test_how_pixels_become_values_must_be_said(pixels: str, said: str, tmp_path: Path) -> None:
    plain().save(tmp_path / "a.png")
    with pytest.raises(UsageError) as told:
        read(tmp_path, pixels)
    assert said in str(told.value)
