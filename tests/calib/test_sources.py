"""What ``--calib`` takes: each kind of source, its faults by the sample's number, and the batches that come out."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeattn import calib
from edgeattn.errors import BadInput, EdgeattnError, OutOfResources, UsageError
from edgeattn.program import Case, TensorSpec

SPECS = [TensorSpec("x", "float32", ("batch", 4))]
RNG = np.random.default_rng(0)


def drawn(name: object, samples: int = 300, specs: list[TensorSpec] = SPECS) -> list[Case]:
    return list(calib.cases(str(name), specs, samples))


def rows(cases: list[Case]) -> np.ndarray:
    return np.concatenate([case.feeds["x"] for case in cases])


def numbered(count: int) -> np.ndarray:
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 4, axis=1)


def test_an_npz_gives_all_its_samples_or_so_many_spread_evenly(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbered(10))
    assert [len(c.feeds["x"]) for c in drawn(tmp_path / "d.npz")] == [4, 4, 2]
    assert rows(drawn(tmp_path / "d.npz"))[:, 0].tolist() == list(range(10))
    assert rows(drawn(tmp_path / "d.npz", 4))[:, 0].tolist() == [0, 2, 5, 7]


def test_a_model_of_a_fixed_batch_gets_whole_batches_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbered(10))
    fixed = [TensorSpec("x", "float32", (3, 4))]
    assert [len(c.feeds["x"]) for c in drawn(tmp_path / "d.npz", specs=fixed)] == [3, 3, 3]
    with pytest.raises(BadInput, match="holds 2 samples, and the model takes 3 at once"):
        drawn(tmp_path / "d.npz", 2, fixed)


def test_samples_of_different_lengths_are_not_put_in_one_batch(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef give():\n    for n in (3, 3, 5): yield np.ones(n, np.float32)\n"
    )
    found = drawn(f"{tmp_path}/mine.py:give", specs=[TensorSpec("x", "float32", ("batch", "length"))])
    assert [c.feeds["x"].shape for c in found] == [(2, 3), (1, 5)]


LOADERS = {
    "batches": "def give():\n    for n in (3, 2): yield {'x': np.ones((n, 4), np.float32)}",
    "samples": "def give():\n    return [np.ones(4, np.float32)] * 5",
    "one array": "def give():\n    return np.ones((5, 4), np.float32)",
    "one dict": "def give():\n    return {'x': np.ones((5, 4), np.float32)}",
    "tensors": "import torch\ndef give():\n    for _ in range(5): yield torch.ones(4, requires_grad=True)",
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_gives_batches_or_samples_as_dicts_or_arrays(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"import numpy as np\n{LOADERS[kind]}\n")
    found = drawn(f"{tmp_path}/mine.py:give")
    assert rows(found).shape == (5, 4)
    assert (rows(found) == 1).all()


def test_a_loader_that_never_ends_is_asked_for_no_more_than_needed(tmp_path: Path) -> None:
    text = "import numpy as np\ndef give():\n    print('hello')\n    while True: yield np.ones(4, np.float32)\n"
    (tmp_path / "mine.py").write_text(text)
    assert rows(drawn(f"{tmp_path}/mine.py:give", 7)).shape == (7, 4)


BROKEN = {
    "yield np.ones(4)": (BadInput, "sample 1: 'x' is float64; expected x: float32"),
    "yield np.ones(5, np.float32)": (BadInput, "sample 1: 'x' has shape"),
    "yield {'y': np.ones(4, np.float32)}": (BadInput, "sample 1: has an array 'y' that is no input"),
    "yield {}": (BadInput, "sample 1: has no array 'x'"),
    "yield np.full(4, np.nan, np.float32)": (BadInput, "'x' is not finite in sample 1"),
    "yield {'x': object()}": (BadInput, "sample 1: 'x' holds Python objects"),
    "yield {'x': [[1], [1, 2]]}": (BadInput, "sample 1: 'x' is list, which is no array"),
    "yield 'text'": (BadInput, "sample 1: is str; yield a dict with 'x' or an array"),
    "yield (np.ones(4, np.float32), 3)": (BadInput, "sample 1: is tuple"),
    "yield np.ones((0, 4), np.float32)": (BadInput, "sample 1: 'x' holds no sample"),
    "raise ValueError('no disk')": (BadInput, "mine.py:4 in give: raised ValueError: no disk"),
    "raise SystemExit(0)": (BadInput, "mine.py:4 in give: called sys.exit"),
}


@pytest.mark.parametrize("line", BROKEN)
def test_what_a_loader_does_wrong_is_told_with_the_sample(line: str, tmp_path: Path) -> None:
    kind, message = BROKEN[line]
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\ndef give():\n    yield np.ones(4, np.float32)\n    {line}\n"
    )
    with pytest.raises(kind) as told:
        drawn(f"{tmp_path}/mine.py:give")
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/photos", "nowhere/photos: no such file or folder; give an .npz"),
        ("digit", "digit: is no task, file or folder; give an .npz"),
        ("gone.npz", "gone.npz: does not exist"),
        ("gone.py:give", "gone.py: no such file"),
        ("mine.py:gives", "has no loader 'gives'; did you mean 'give'?"),
        ("mine.py:number", "'number' is int, not a function"),
        ("no_such_package_anywhere:f", "cannot be imported"),
    ],
)
def test_what_does_not_exist_is_told(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("number = 3\ndef give(): return []\n")
    with pytest.raises(EdgeattnError) as told:
        drawn(name)
    assert message in str(told.value)
    assert told.value.exit_code in (2, 3)


def test_which_data_has_a_metric_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from edgeattn.tasks.digits import TASK\ndef give(): return []\n")
    found = [calib.task(n) for n in ("digits", f"{tmp_path}/mine.py", f"{tmp_path}/mine.py:TASK")]
    assert [t and t.name for t in found] == ["digits"] * 3
    others = ("d.npz", str(tmp_path), f"{tmp_path}/mine.py:give", "package.module:give")
    assert [calib.task(n) for n in others] == [None] * 4


def test_pixels_are_for_folders_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbered(3))
    with pytest.raises(UsageError, match="is no folder of images"):
        list(calib.cases(str(tmp_path / "d.npz"), SPECS, 3, "imagenet"))


def npz(compression: int = zipfile.ZIP_STORED, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, value in arrays.items():
            member = io.BytesIO()
            np.save(member, value, allow_pickle=True)
            archive.writestr(f"{name}.npy", member.getvalue())
    return file.getvalue()


def bomb() -> bytes:
    """Says of two members that they unpack to 4 GiB each."""
    data, at = npz(x=numbered(3), y=numbered(3)), -1
    for _ in range(2):
        at = data.index(b"PK\x01\x02", at + 1)
        data = data[: at + 24] + struct.pack("<I", 0xFFFFFFF0) + data[at + 28 :]
    return data


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", BadInput),
        (b"not a zip", BadInput),
        (npz(x=numbered(30))[:-80], BadInput),
        (npz(x=np.array([{}], object)), BadInput),
        (npz(x=numbered(0)), BadInput),
        (npz(y=numbered(3)), BadInput),
        (npz(x=numbered(3)).replace(b"\x93NUMPY", b"\x00NUMPY"), BadInput),
        (npz(x=numbered(3)).replace(b"'shape': (3, 4)", b"'shape': (3, 9)"), BadInput),
        (bomb(), OutOfResources),
    ],
)
def test_a_damaged_npz_is_told_in_one_line(data: bytes, kind: type[EdgeattnError], tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(data)
    with pytest.raises(kind, match=r"d\.npz"):
        drawn(tmp_path / "d.npz")


def test_an_npz_with_any_byte_damaged_is_read_or_told(tmp_path: Path) -> None:
    good = bytearray(npz(zipfile.ZIP_DEFLATED, x=numbered(6)))
    for place in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[place] ^= 0x55
        (tmp_path / "d.npz").write_bytes(damaged)
        with contextlib.suppress(BadInput, OutOfResources):
            drawn(tmp_path / "d.npz")
