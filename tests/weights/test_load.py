import pickle
import re

import pytest
import torch
from torch import nn

from edgeattn import weights
from edgeattn.errors import BadInput, IntegrityError, UnknownName
from tests.weights.small import Payload, net

pytestmark = pytest.mark.torch


def saved(path, tensors=None, **metadata):
    weights.write(path, net().state_dict() if tensors is None else tensors, metadata)
    return path


def test_fills_the_module_and_returns_the_metadata(tmp_path):
    path = saved(tmp_path / "w.safetensors", task="none", score="0.5")
    module = net()
    nn.init.zeros_(module[0].weight)
    assert weights.load(module, path) == {"task": "none", "score": "0.5"}
    assert torch.equal(module[0].weight, net()[0].weight)


def test_lists_up_to_five_keys_that_differ(tmp_path):
    tensors = {"extra": torch.zeros(1), "0.weight": torch.zeros(4, 5)}
    path = saved(tmp_path / "w.safetensors", tensors)
    expected = (
        f"{path}: the weights do not fit the model: missing '0.bias', missing '1.weight', missing '1.bias', "
        "missing '1.running_mean', missing '1.running_var', and 3 more; "
        "use the configuration these weights were trained with"
    )
    with pytest.raises(BadInput, match=f"^{re.escape(expected)}$"):
        weights.load(net(), path)


def test_shapes_show_both_sides(tmp_path):
    path = saved(tmp_path / "w.safetensors", {**net().state_dict(), "0.weight": torch.zeros(4, 5)})
    with pytest.raises(BadInput, match=re.escape("'0.weight' has shape (4, 5), expected (4, 3)")):
        weights.load(net(), path)


def test_another_dtype_is_refused(tmp_path):
    path = saved(tmp_path / "w.safetensors", {k: v.double() for k, v in net().state_dict().items()})
    with pytest.raises(BadInput, match="has dtype float64, expected float32"):
        weights.load(net(), path)


def test_a_module_on_the_meta_device_is_refused(tmp_path):
    path = saved(tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=r"'.*' lies on the meta device"):
        weights.load(net().to("meta"), path)


def test_a_refused_file_leaves_the_module_as_it_was(tmp_path):
    path = saved(tmp_path / "w.safetensors", {**net().state_dict(), "0.bias": torch.zeros(9)})
    module = net()
    with pytest.raises(BadInput):
        weights.load(module, path)
    assert all(torch.equal(value, net().state_dict()[key]) for key, value in module.state_dict().items())


def test_not_strict_leaves_missing_keys_alone_but_not_shapes(tmp_path):
    path = saved(tmp_path / "w.safetensors", {"0.bias": torch.ones(4), "head": torch.ones(2)})
    module = net()
    weights.load(module, path, strict=False)
    assert torch.equal(module[0].bias, torch.ones(4))
    assert torch.equal(module[0].weight, net()[0].weight)
    with pytest.raises(BadInput, match=r"'0\.bias' has shape"):
        weights.load(module, saved(tmp_path / "x.safetensors", {"0.bias": torch.ones(5)}), strict=False)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.pt2", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_checkpoint_that_can_carry_code_is_refused_and_not_run(tmp_path, name, legacy):
    path, witness = tmp_path / name, tmp_path / "payload ran"
    torch.save({"w": Payload(witness)}, path, _use_new_zipfile_serialization=not legacy)
    expected = f"{path}: executable checkpoint; save a state_dict as safetensors"
    with pytest.raises(IntegrityError, match=f"^{re.escape(expected)}$"):
        weights.load(net(), path)
    assert not witness.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_raw_pickle_is_refused_whatever_its_name(tmp_path, protocol):
    path, witness = tmp_path / "w.safetensors", tmp_path / "payload ran"
    path.write_bytes(pickle.dumps(Payload(witness), protocol))
    with pytest.raises(IntegrityError, match="executable checkpoint"):
        weights.load(net(), path)
    assert not witness.exists()


def test_an_unknown_name_proposes_the_nearest():
    with pytest.raises(UnknownName, match="unknown weights 'cbam_digit'; did you mean 'cbam_digits'"):
        weights.locate("cbam_digit")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"none\.safetensors: no such file"):
        weights.load(net(), tmp_path / "none.safetensors")
