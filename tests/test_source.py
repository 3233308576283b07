"""What a user calls a model: names, modules, files, and their mistakes in their own terms."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgeattn.errors import BadInput, IntegrityError, UnknownName, Unsupported, UsageError
from edgeattn.source import resolve

pytestmark = pytest.mark.torch

GOOD = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
    def forward(self, x, gain):
        return self.layer(x) * gain, x
def make(): return Net()
"""


def model(tmp_path: Path, text: str, name: str = "make") -> str:
    (tmp_path / "net.py").write_text(text)
    return f"{tmp_path / 'net.py'}:{name}"


def test_a_configuration_brings_its_weights_and_task() -> None:
    found = resolve("cbam_digits")
    assert (found.task, found.weights) == ("digits", "cbam_digits")


def test_a_users_module_takes_shapes_in_the_names_of_forward(tmp_path: Path) -> None:
    found = resolve(model(tmp_path, GOOD), shapes={"x": (1, 4), "gain": (1, 1)})
    (graph,) = found.source.graphs.values()
    assert [str(s) for s in graph.inputs] == ["x: float32[batch, 4]", "gain: float32[batch, 1]"]
    assert graph.outputs == ("output_0", "output_1")


def test_dynamic_dimensions_are_drawn_at_two_sizes(tmp_path: Path) -> None:
    text = GOOD.replace("return self.layer(x) * gain, x", "return x.mean(1)").replace("x, gain", "x")
    found = resolve(model(tmp_path, text), shapes={"x": (1, 64)}, dynamic=[("x", 0, "batch"), ("x", 1, "length")])
    assert {c.feeds["x"].shape for c in found.source.cases(0)} == {(1, 64), (2, 32)}


def test_what_it_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolve(model(tmp_path, "print('hello')\n" + GOOD), shapes={"x": (1, 4), "gain": (1, 1)})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def make(:\n", BadInput, r"net.py:1: syntax error"),
        ("import no_such_module\n", UsageError, "cannot be imported: No module named 'no_such_module'"),
        ("def make(): return 1 / 0\n", BadInput, r"net.py:1: raised ZeroDivisionError"),
        ("import sys\ndef make(): sys.exit(0)\n", BadInput, r"called sys.exit\(0\)"),
        ("def make(): return {}\n", BadInput, "'make' returned dict; return an nn.Module"),
        ("def maker(): return None\n", UsageError, "has no factory 'make'; did you mean 'maker'"),
    ],
)
def test_a_users_mistake_is_told_with_its_place(tmp_path: Path, text: str, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        resolve(model(tmp_path, text), shapes={"x": (1, 4)})


def test_shapes_that_do_not_fit_forward_are_told_in_its_names(tmp_path: Path) -> None:
    name = model(tmp_path, GOOD)
    with pytest.raises(UsageError, match=r"forward\(x, gain\): its input shapes are unknown; give --shape x="):
        resolve(name)
    with pytest.raises(UsageError, match="input 'gain' has no shape"):
        resolve(name, shapes={"x": (1, 4)})
    with pytest.raises(UsageError, match="has no input 'gian'; did you mean 'gain'"):
        resolve(name, shapes={"x": (1, 4), "gian": (1, 1)})


def test_dict_outputs_are_refused_with_a_way_out(tmp_path: Path) -> None:
    text = GOOD.replace("return self.layer(x) * gain, x", "return {'y': x}")
    with pytest.raises(Unsupported, match="returns dict; return a tensor or a tuple"):
        resolve(model(tmp_path, text), shapes={"x": (1, 4), "gain": (1, 1)})


def test_an_unknown_file_module_or_name_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        resolve(f"{tmp_path}/absent.py:make")
    with pytest.raises(UsageError, match="cannot be imported"):
        resolve("no_such_package.models:make")
    with pytest.raises(UnknownName, match="did you mean 'cbam_resnet50'"):
        resolve("cbam_resnet5O")


def test_an_executable_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2, 4)}, tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match="safetensors"):
        resolve(model(tmp_path, GOOD), str(tmp_path / "w.pt"), shapes={"x": (1, 4), "gain": (1, 1)})
