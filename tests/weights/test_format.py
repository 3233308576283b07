import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeattn.errors import BadInput
from edgeattn.weights import read, write

pytestmark = pytest.mark.torch


def raw(path, header, data=b"", length=None):
    """A hand-made file: any header, any data, any claimed header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def every_dtype():
    values = torch.tensor([[0, 1, 2], [3, 4, 5]])
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    return {
        **{kind: values.to(getattr(torch, kind)) for kind in kinds},
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "transposed": values.T,
    }


def test_agrees_with_the_safetensors_package_both_ways(tmp_path):
    tensors = every_dtype()
    write(tmp_path / "ours", tensors, {"k": "v"})
    theirs = load_file(tmp_path / "ours")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "theirs", {"k": "v"})
    ours, metadata = read(tmp_path / "theirs")
    assert metadata == {"k": "v"}
    assert theirs.keys() == ours.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.equal(theirs[key], value)
        assert torch.equal(ours[key], value)
        assert ours[key].dtype == value.dtype


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    tensors = every_dtype()
    write(tmp_path / "a", tensors, {"x": "1", "y": "2"})
    write(tmp_path / "b", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_header_length_that_looks_like_a_pickle_is_still_safetensors(tmp_path):
    for size in range(0x280 - 120, 0x280):  # a length of 0x0280 is stored as the bytes 80 02
        write(tmp_path / "w", {"t": torch.zeros(1)}, {"pad": "x" * size})
        assert read(tmp_path / "w")[0].keys() == {"t"}
    assert raw(tmp_path / "w", {"__metadata__": {"pad": "x" * (0x280 - 29)}}).read_bytes()[:2] == b"\x80\x02"
    assert read(tmp_path / "w")[0] == {}


BROKEN = {
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456", "a tensor 'b' that overlaps the one before it"),
    "hole": ({"a": entry(0, 2), "b": entry(4, 6)}, b"123456", "a tensor 'b' that follows a hole"),
    "short": ({"a": entry(0, 8)}, b"1234", "4 bytes of tensors where its header describes 8"),
    "trailing": ({"a": entry(0, 4)}, b"123456", "6 bytes of tensors where its header describes 4"),
    "size": ({"a": entry(0, 4, [2, 3])}, b"1234", "a tensor 'a' of 4 bytes where its shape needs 6"),
    "negative": ({"a": entry(0, 4, [-4])}, b"1234", "a tensor 'a' with an unknown type, shape or offset"),
    "huge": ({"a": entry(0, 4, [2**62, 2**62])}, b"1234", "a tensor 'a' of 4 bytes where its shape needs"),
    "dtype": ({"a": entry(0, 4, dtype="F4")}, b"1234", "a tensor 'a' with an unknown type, shape or offset"),
    "no entry": ({"a": None}, b"", "a tensor 'a' with an unknown type, shape or offset"),
    "list": ([1], b"", "a header that is not an object"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "metadata that is not text"),
    "duplicate": (b'{"a":{},"a":{}}', b"", "a header that is not JSON (the key 'a' appears twice)"),
    "not JSON": (b"<html>", b"", "a header that is not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "a header that is not JSON"),
    "control": ({"a\n\x1b[31m": None}, b"", r"a tensor 'a\n\x1b[31m' with an unknown type"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_with_its_fault(tmp_path, fault):
    header, data, message = BROKEN[fault]
    path = raw(tmp_path / "w.safetensors", header, data)
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: not a sound safetensors file: it has ")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("length", [2**63, 1 << 30, 1000])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    with pytest.raises(BadInput, match="a header that does not fit into its 10 bytes"):
        read(raw(tmp_path / "w", {}, length=length))


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "w").write_bytes(b"")
    with pytest.raises(BadInput, match=re.escape("its 0 bytes (an empty file)")):
        read(tmp_path / "w")


def test_every_truncation_of_a_good_file_is_refused(tmp_path):
    write(tmp_path / "good", {"a": torch.arange(3), "b": torch.zeros(2)}, {})
    data = (tmp_path / "good").read_bytes()
    for end in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:end])
        with pytest.raises(BadInput):
            read(tmp_path / "cut")


def test_a_directory_and_a_fifo_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadInput, match="is a FIFO"):
        read(tmp_path / "fifo")
    with pytest.raises(BadInput, match="is a directory"):
        read(tmp_path)
