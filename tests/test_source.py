"""What a user calls a model: names, modules, files, and their mistakes in their own terms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgeattn.errors import BadInput, IntegrityError, UnknownName, Unsupported, UsageError
from edgeattn.models import GraphSource, Source
from edgeattn.program import Stop, TensorSpec, Wiring
from edgeattn.recipe import parse_spec
from edgeattn.source import Inputs, resolve

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


def shaped(**shapes: str) -> Inputs:
    """What `--shape NAME=DIMS` says."""
    return Inputs([parse_spec(name, text) for name, text in shapes.items()])


def test_a_configuration_brings_its_weights_and_task() -> None:
    found = resolve("cbam_digits")
    assert (found.task, found.weights) == ("digits", "cbam_digits")


def test_a_users_module_takes_shapes_in_the_names_of_forward(tmp_path: Path) -> None:
    found = resolve(model(tmp_path, GOOD), inputs=shaped(x="1x4", gain="1x1"))
    (graph,) = found.source.graphs.values()
    assert [str(s) for s in graph.inputs] == ["x: float32[batch, 4]", "gain: float32[batch, 1]"]
    assert graph.outputs == ("output_0", "output_1")


def test_dynamic_dimensions_are_drawn_at_two_sizes(tmp_path: Path) -> None:
    text = GOOD.replace("return self.layer(x) * gain, x", "return x.mean(1)").replace("x, gain", "x")
    dynamic = [("x", 0, "batch"), ("x", 1, "length")]
    found = resolve(model(tmp_path, text), inputs=replace(shaped(x="1x64"), dynamic=dynamic))
    assert {c.feeds["x"].shape for c in found.source.cases(0)} == {(1, 64), (2, 32)}


def test_what_it_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolve(model(tmp_path, "print('hello')\n" + GOOD), inputs=shaped(x="1x4", gain="1x1"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def make(:\n", BadInput, r"net.py:1: syntax error"),
        ("import no_such_module\n", UsageError, "cannot be imported: No module named 'no_such_module'"),
        ("def make(): return 1 / 0\n", BadInput, r"net.py:1 in make: raised ZeroDivisionError: division by zero"),
        ("import sys\ndef make(): sys.exit(0)\n", BadInput, r"called sys.exit\(0\)"),
        ("def make(): return {}\n", BadInput, "'make' returned dict; return an nn.Module"),
        ("def maker(): return None\n", UsageError, "has no factory 'make'; did you mean 'maker'"),
    ],
)
def test_a_users_mistake_is_told_with_its_place(tmp_path: Path, text: str, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        resolve(model(tmp_path, text), inputs=shaped(x="1x4"))


def test_shapes_that_do_not_fit_forward_are_told_in_its_names(tmp_path: Path) -> None:
    name = model(tmp_path, GOOD)
    with pytest.raises(UsageError, match=r"forward\(x, gain\): its input shapes are unknown; give --shape x="):
        resolve(name)
    with pytest.raises(UsageError, match="input 'gain' has no shape"):
        resolve(name, inputs=shaped(x="1x4"))
    with pytest.raises(UsageError, match="has no input 'gian'; did you mean 'gain'"):
        resolve(name, inputs=shaped(x="1x4", gian="1x1"))


def test_dict_outputs_are_refused_with_a_way_out(tmp_path: Path) -> None:
    text = GOOD.replace("return self.layer(x) * gain, x", "return {'y': x}")
    with pytest.raises(Unsupported, match="returns dict; return a tensor or a tuple"):
        resolve(model(tmp_path, text), inputs=shaped(x="1x4", gain="1x1"))


def test_an_unknown_file_module_or_name_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        resolve(f"{tmp_path}/absent.py:make")
    with pytest.raises(UsageError, match="cannot be imported"):
        resolve("no_such_package.models:make")
    with pytest.raises(UnknownName, match="did you mean 'cbam_resnet50'"):
        resolve("cbam_resnet5O")


def test_a_state_dict_of_torch_save_is_loaded_and_what_was_unwrapped_is_noted(tmp_path: Path) -> None:
    trained = {"module.layer.weight": torch.ones(2, 4), "module.layer.bias": torch.ones(2)}
    torch.save({"epoch": 3, "model": trained}, tmp_path / "w.pt")
    found = resolve(model(tmp_path, GOOD), str(tmp_path / "w.pt"), shaped(x="1x4", gain="1x1"))
    assert torch.equal(found.source.graphs["main"].module.layer.weight, torch.ones(2, 4))
    assert found.notes == (
        f"{tmp_path}/w.pt: the weights are its entry 'model'",
        f"{tmp_path}/w.pt: 'module.' was taken off every key",
    )


def test_a_whole_module_in_a_file_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(4, 2), tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match="executable checkpoint; save a state_dict as safetensors"):
        resolve(model(tmp_path, GOOD), str(tmp_path / "w.pt"), shaped(x="1x4", gain="1x1"))


def two_graphs(**changes: object) -> Source:
    """A running sum: the encoder scales its input, the step adds it to a state; ``changes`` break it."""

    class Encoder(torch.nn.Module):
        def forward(self, x):
            return x * 2

    class Step(torch.nn.Module):
        def forward(self, token, total, memory):
            total = total + memory + token.unsqueeze(1)
            return total, total * 1

    row = ("batch", 4)
    graphs = {
        "encoder": GraphSource(Encoder(), (TensorSpec("x", "float32", row),), ("memory",)),
        "step": GraphSource(
            Step(),
            (
                TensorSpec("token", "int64", ("batch",)),
                TensorSpec("total", "float32", row),
                TensorSpec("memory", "float32", row),
            ),
            ("logits", "total_out"),
        ),
    }
    wiring = {
        "feeds": {"step.memory": "encoder.memory"},
        "state": {"step.total": "step.total_out"},
        "stop": Stop("step.token", "step.logits", 0, 1, 3),
    }
    graphs["step"] = replace(
        graphs["step"], **{k: v for k, v in changes.items() if k in ("module", "inputs", "outputs")}
    )
    return Source(graphs, Wiring(**{**wiring, **{k: v for k, v in changes.items() if k in wiring}}))


def resolved(monkeypatch: pytest.MonkeyPatch, source: Source) -> Source:
    """What a factory that returns ``source`` comes to."""
    monkeypatch.setattr("edgeattn.theirs.load", lambda *_: lambda: source)
    return resolve("net.py:make").source


def test_a_factory_may_return_several_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(resolved(monkeypatch, two_graphs()).graphs) == ["encoder", "step"]


TOKEN, ROW = TensorSpec("token", "int64", ("batch",)), ("batch", 4)
SLIPS = {
    "a graph that is not there": (
        {"feeds": {"stp.memory": "encoder.memory"}},
        "wiring: feeds names 'stp.memory', which is no input; did you mean 'step.memory'?",
    ),
    "a tensor that is not there": (
        {"feeds": {"step.memory": "encoder.memry"}},
        "wiring: feeds['step.memory'] names 'encoder.memry', which is no output of a graph that runs once; "
        "did you mean 'encoder.memory'?",
    ),
    "a state from nowhere": (
        {"state": {"step.total": "step.total"}},
        "wiring: state['step.total'] names 'step.total', which is no output of 'step'; did you mean 'step.total_out'?",
    ),
    "a stop from nowhere": (
        {"stop": Stop("step.token", "step.logit", 0, 1, 3)},
        "wiring: stop.emits names 'step.logit', which is no output of 'step'; did you mean 'step.logits'?",
    ),
    "inputs that forward() does not take": (
        {"inputs": (TOKEN,), "feeds": {}, "state": {}},
        "graph 'step': forward(token, total, memory) does not take token: missing a required argument: 'total'; "
        "inputs are passed by position, in the order they are declared",
    ),
    "inputs in another order": (
        {"inputs": (TensorSpec("total", "float32", ROW), TOKEN, TensorSpec("memory", "float32", ROW))},
        "graph 'step': inputs are declared as total, token, memory, but it is forward(token, total, memory); "
        "inputs are passed by position, in the order they are declared",
    ),
    "one name for two tensors": (
        {"outputs": ("logits", "total")},
        "graph 'step': 'total' names two of its tensors; a state that returns is h_out where h went in",
    ),
    "a type that is none": (
        {"inputs": (TensorSpec("token", "long", ("batch",)), *two_graphs().graphs["step"].inputs[1:])},
        "graph 'step': input 'token' has the unknown type 'long'; known: bool, float16",
    ),
    "outputs that are one string": (
        {"outputs": "logits"},
        "graph 'step': its outputs are not a tuple of names; outputs=('logits',)",
    ),
    "no module": ({"module": "net"}, "graph 'step': its module is str; give an nn.Module"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_source_is_told_when_it_is_resolved(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, said = SLIPS[slip]
    with pytest.raises(BadInput, match=re.escape(f"net.py:make: {said}")):
        resolved(monkeypatch, two_graphs(**changes))


def test_several_graphs_need_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "net.py:make: graphs encoder, step have no wiring; say how they feed each other: wiring=Wiring(…)"
    with pytest.raises(BadInput, match=re.escape(said)):
        resolved(monkeypatch, replace(two_graphs(), wiring=None))


def test_a_source_brings_its_own_shapes_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeattn.theirs.load", lambda *_: two_graphs)
    with pytest.raises(UsageError, match="--weights: a factory that returns a Source brings its own weights"):
        resolve("net.py:make", "w.pt")
    with pytest.raises(UsageError, match=r"--shape: 'net\.py:make' declares its own inputs"):
        resolve("net.py:make", inputs=shaped(x="1x4"))
