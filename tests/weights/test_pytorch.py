"""State dicts of torch.save: what is unwrapped and said, what is refused, and that nothing is ever run."""

import collections
import io
import os
import pickle
import re
import struct
import zipfile

import pytest
import torch
from torch import nn

from edgeattn import weights
from edgeattn.errors import BadInput, IntegrityError, OutOfResources
from tests.weights.small import Payload, net

pytestmark = pytest.mark.torch


def trained():
    module = net()
    nn.init.constant_(module[0].weight, 7.0)
    return module.state_dict()


def loaded(path):
    """A module filled from ``path``, and what was said about it."""
    module, notes = net(), []
    assert weights.load(module, path, note=notes.append) == {}
    assert torch.equal(module[0].weight, torch.full((4, 3), 7.0))
    return notes


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt", "w.pkl", "w.safetensors", "w"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_plain_state_dict_is_loaded_whatever_its_name(tmp_path, name, legacy):
    torch.save(trained(), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert loaded(tmp_path / name) == []


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def lightning(state):
    return {"epoch": 3, "global_step": 9, "state_dict": prefixed("model.", state), "callbacks": {}, "loops": None}


WRAPPED = {
    "under state_dict": (lambda s: {"state_dict": s, "epoch": 1}, ["the weights are its entry 'state_dict'"]),
    "under model, beside an optimizer": (
        lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "args": ["--lr", 0.1]},
        ["the weights are its entry 'model'"],
    ),
    "under model, beside an average": (lambda s: {"ema": s, "model": s}, ["the weights are its entry 'model'"]),
    "under any one name": (lambda s: {"generator": s}, ["the weights are its entry 'generator'"]),
    "by DataParallel": (lambda s: prefixed("module.", s), ["'module.' was taken off every key"]),
    "by torch.compile": (lambda s: prefixed("_orig_mod.", s), ["'_orig_mod.' was taken off every key"]),
    "by both": (
        lambda s: prefixed("_orig_mod.module.", s),
        ["'_orig_mod.' was taken off every key", "'module.' was taken off every key"],
    ),
    "by a training loop": (lightning, ["the weights are its entry 'state_dict'", "'model.' was taken off every key"]),
    "in an OrderedDict": (collections.OrderedDict, []),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_a_training_script_wrapped_is_unwrapped_and_said(tmp_path, how):
    wrap, notes = WRAPPED[how]
    torch.save(wrap(trained()), tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt") == [f"{tmp_path}/w.pt: {note}" for note in notes]


def test_a_prefix_is_taken_off_safetensors_too_but_not_where_the_model_has_it(tmp_path):
    weights.write(tmp_path / "w.safetensors", prefixed("module.", trained()), {})
    assert loaded(tmp_path / "w.safetensors") == [f"{tmp_path}/w.safetensors: 'module.' was taken off every key"]
    wrapper = nn.ModuleDict({"module": net()})
    weights.load(wrapper, tmp_path / "w.safetensors")
    assert torch.equal(wrapper["module"][0].weight, torch.full((4, 3), 7.0))


def test_keys_that_do_not_fit_are_listed_as_for_safetensors(tmp_path):
    torch.save({"0.weight": torch.zeros(4, 5), "extra": torch.zeros(1)}, tmp_path / "w.pt")
    expected = (
        f"{tmp_path}/w.pt: the weights do not fit the model: missing '0.bias', missing '1.weight', missing '1.bias', "
        "missing '1.running_mean', missing '1.running_var', and 3 more; "
        "use the configuration these weights were trained with"
    )
    with pytest.raises(BadInput, match=f"^{re.escape(expected)}$"):
        weights.load(net(), tmp_path / "w.pt")


class Scaled(nn.Module):
    def forward(self, x):
        return x * 2


def scripted(path, witness):
    torch.jit.save(torch.jit.trace(Scaled(), torch.ones(1)), path)


def exported(path, witness):
    torch.export.save(torch.export.export(Scaled(), (torch.ones(1),)), path)


def archived(path, witness):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")


EXECUTABLE = {
    "a whole module": lambda path, witness: torch.save(net(), path),
    "code beside the weights": lambda path, witness: torch.save({**trained(), "x": Payload(witness)}, path),
    "code in a nested list": lambda path, witness: torch.save({"model": trained(), "a": [[Payload(witness)]]}, path),
    "code in the old format": lambda path, witness: torch.save(
        [trained(), Payload(witness)], path, _use_new_zipfile_serialization=False
    ),
    "TorchScript": scripted,
    "torch.export": exported,
    "a raw pickle of code": lambda path, witness: path.write_bytes(pickle.dumps(Payload(witness))),
    "a raw pickle of a dict": lambda path, witness: path.write_bytes(pickle.dumps({"a": 1})),
    "an archive of something else": archived,
}


@pytest.mark.parametrize("what", EXECUTABLE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is on its way out; its files are still about
def test_what_needs_more_than_tensors_is_refused_and_never_run(tmp_path, what):
    path, witness = tmp_path / "w.pt", tmp_path / "payload ran"
    EXECUTABLE[what](path, witness)
    expected = f"{path}: executable checkpoint; save a state_dict as safetensors"
    with pytest.raises(IntegrityError, match=f"^{re.escape(expected)}$"):
        weights.load(net(), path)
    assert not witness.exists()


NOT_STATE_DICTS = {
    "a tensor": (torch.zeros(3), "holds a Tensor, not a state_dict; save model.state_dict(), as safetensors"),
    "numbers": ({"epoch": 3, "loss": 0.5}, "holds no state_dict: epoch, loss; save model.state_dict() alone"),
    "nothing": ({}, "holds no state_dict: nothing; save model.state_dict() alone"),
    "two of them": ({"a": trained(), "b": trained()}, "holds several state_dicts: a, b; save"),
    "a sparse tensor": ({"w": torch.eye(3).to_sparse()}, "'w' is sparse or quantized; save dense tensors"),
    "no values": ({"w": torch.zeros(3, device="meta")}, "'w' has no values (meta); save dense tensors"),
}


@pytest.mark.parametrize("what", NOT_STATE_DICTS)
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path, what):
    value, said = NOT_STATE_DICTS[what]
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=re.escape(f"{tmp_path}/w.pt: {said}")):
        weights.load(net(), tmp_path / "w.pt")


def repacked(tmp_path, change, compression=zipfile.ZIP_STORED):
    """A file of torch.save whose members were changed: ``change(name, bytes) -> bytes``."""
    torch.save(trained(), tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "w.pt", "w", compression) as made:
        for entry in good.infolist():
            made.writestr(entry.filename, change(entry.filename, good.read(entry)))
    return tmp_path / "w.pt"


def test_a_zip_bomb_is_refused_before_anything_is_unpacked(tmp_path):
    path = repacked(tmp_path, lambda name, data: data + bytes(1 << 24) if name.endswith("data/0") else data, 8)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(OutOfResources, match=r"w\.pt: would unpack from \d+ to \d+ bytes; save the state_dict again"):
        weights.load(net(), path)


def test_a_tensor_longer_than_its_bytes_is_refused(tmp_path):
    """0.weight has 12 values; the pickle is made to claim 1,000,012, in its storage."""
    claimed = struct.pack("<I", 1_000_012)

    def lie(name, data):
        return data.replace(b"K\x0c", b"J" + claimed) if name.endswith("data.pkl") else data

    with pytest.raises(BadInput, match=r"w\.pt: is a damaged PyTorch file; copy or save it again"):
        weights.load(net(), repacked(tmp_path, lie))


@pytest.mark.parametrize("legacy", [True, False])
def test_no_cut_file_gets_anything_but_one_of_our_errors(tmp_path, legacy):
    buffer = io.BytesIO()
    torch.save(trained(), buffer, _use_new_zipfile_serialization=not legacy)
    data = buffer.getvalue()
    for end in range(0, len(data), 97):
        (tmp_path / "w.pt").write_bytes(data[:end])
        with pytest.raises((BadInput, IntegrityError)):
            weights.load(net(), tmp_path / "w.pt")


def test_a_fifo_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(BadInput, match=r"w\.pt: is a FIFO"):
        weights.load(net(), tmp_path / "w.pt")
