"""A user's module, its declared inputs and its examples, in the names of forward()'s parameters."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from edgeattn.errors import BadInput, Unsupported, UsageError
from edgeattn.program import Case
from edgeattn.recipe import parse_dynamic, parse_spec
from edgeattn.signature import Inputs, one_graph

pytestmark = pytest.mark.torch


class Reader(nn.Module):
    """Tokens, which of them count, and a gain that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, tokens, mask, gain=None):
        x = (self.embed(tokens) * mask.unsqueeze(2)).sum(1)
        return x if gain is None else x * gain


def inputs(*dynamic: str, **shapes: str) -> Inputs:
    return Inputs([parse_spec(n, s) for n, s in shapes.items()], [parse_dynamic(d) for d in dynamic])


def saved(tmp_path: Path, *dynamic: str, **arrays: object) -> Inputs:
    np.savez(tmp_path / "example.npz", **arrays)
    return Inputs((), [parse_dynamic(d) for d in dynamic], tmp_path / "example.npz")


TOKENS, MASK = np.array([[3, 9, 4], [5, 5, 7]]), np.array([[True, True, False], [True, True, True]])


def specs(said: Inputs, module: nn.Module | None = None) -> list[str]:
    source, _ = one_graph(module or Reader(), said)
    return [str(s) for s in source.graphs["main"].inputs]


def test_types_are_declared_beside_the_shapes() -> None:
    said = inputs(tokens="1x5:int64", mask="1x5:bool")
    assert specs(said) == ["tokens: int64[batch, 5]", "mask: bool[batch, 5]"]


def test_an_example_says_types_and_shapes_and_becomes_a_case(tmp_path: Path) -> None:
    source, real = one_graph(Reader(), saved(tmp_path, "tokens:1=length", "mask:1=length", tokens=TOKENS, mask=MASK))
    assert [str(s) for s in source.graphs["main"].inputs] == ["tokens: int64[2, length]", "mask: bool[2, length]"]
    assert [case.name for case in real] == ["real-example"]
    np.testing.assert_array_equal(real[0].feeds["tokens"], TOKENS)
    assert {case.feeds["tokens"].shape for case in source.cases(0)} == {(2, 3), (2, 6)}


def test_integers_are_drawn_from_the_example(tmp_path: Path) -> None:
    source, _ = one_graph(Reader(), saved(tmp_path, tokens=TOKENS, mask=MASK))
    drawn = np.concatenate([case.feeds["tokens"].ravel() for case in source.cases(0)])
    assert set(drawn) <= set(TOKENS.ravel())
    assert len(set(drawn)) > 2


def test_a_parameter_with_a_default_may_be_given_or_not(tmp_path: Path) -> None:
    assert len(specs(saved(tmp_path, tokens=TOKENS, mask=MASK))) == 2
    gain = np.ones((2, 1), np.float32)
    assert specs(saved(tmp_path, tokens=TOKENS, mask=MASK, gain=gain))[2] == "gain: float32[batch, 1]"


def test_an_input_without_axes_is_kept_so(tmp_path: Path) -> None:
    class Scale(nn.Module):
        def forward(self, x, gain):
            return x * gain

    said = saved(tmp_path, x=np.ones((2, 3), np.float32), gain=np.float32(2))
    assert specs(said, Scale()) == ["x: float32[batch, 3]", "gain: float32[]"]


NPZ = {
    "a misspelt array": (
        {"tokens": TOKENS, "maks": MASK},
        "has an array 'maks' that forward(tokens, mask, gain) does not take; did you mean 'mask'?",
    ),
    "a missing array": (
        {"tokens": TOKENS},
        "has no array 'mask', which forward(tokens, mask, gain) takes; it has tokens; save every input by its name",
    ),
    "numpy's default type": (
        {"tokens": TOKENS, "mask": MASK * 1.0},
        "'mask' is float64; save it as one of float32, float16, int64, int32, int8, uint8, bool: "
        "mask.astype(numpy.float32)",
    ),
    "text": ({"tokens": np.array(["a"]), "mask": MASK}, "'tokens' is <U1; save it as one of float32"),
    "objects": ({"tokens": np.array([None]), "mask": MASK}, "holds an array of Python objects, which only"),
    "nothing": ({"tokens": TOKENS[:0], "mask": MASK}, "'tokens' has shape [0, 3]: it holds no value"),
    "not a number": (
        {"tokens": TOKENS, "mask": MASK, "gain": np.array([[1], [np.nan]], np.float32)},
        "'gain' is not finite in sample 1; remove NaN and Inf",
    ),
}


@pytest.mark.parametrize("fault", NPZ)
def test_an_example_that_does_not_fit_is_told_in_the_users_names(fault: str, tmp_path: Path) -> None:
    arrays, said = NPZ[fault]
    with pytest.raises(BadInput, match="^" + re.escape(f"{tmp_path}/example.npz: {said}")) as refused:
        one_graph(Reader(), saved(tmp_path, **arrays))
    assert refused.value.exit_code == 3


def test_an_example_of_the_wrong_rank_is_told_with_every_input_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        one_graph(Reader(), saved(tmp_path, tokens=TOKENS[0], mask=MASK[0]))
    said = str(refused.value)
    assert re.match(r"tests/test_signature\.py:\d+ in forward: raised IndexError: Dimension out of range", said)
    assert "; inputs were tokens: int64[3], mask: bool[3]; declare the inputs it takes, or mend forward()" in said


DECLARED = {
    "no shape": ((), {}, "its input shapes are unknown; give --shape tokens=1x3x224x224 --shape mask=1x3x224x224"),
    "one missing": ((), {"tokens": "1x5:int64"}, "input 'mask' has no shape; give --shape mask=… too"),
    "an unknown one": ((), {"tokens": "1x5", "maks": "1x5"}, "has no input 'maks'; did you mean 'mask'?"),
}


@pytest.mark.parametrize("fault", DECLARED)
def test_shapes_that_do_not_fit_the_signature_are_a_usage_error(fault: str) -> None:
    dynamic, shapes, said = DECLARED[fault]
    with pytest.raises(UsageError, match=re.escape(f"forward(tokens, mask, gain): {said}")):
        one_graph(Reader(), inputs(*dynamic, **shapes))


BOTH = {"tokens": "1x5:int64", "mask": "1x5:bool"}
DYNAMIC = {
    "tokenz:1=n": "forward(tokens, mask, gain) has no input 'tokenz'; did you mean 'tokens'?",
    "tokens:2=n": "'tokens' has 2 axes; axes count from 0",
}


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_a_dynamic_axis_that_is_not_there_is_a_usage_error(dynamic: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--dynamic {dynamic}: {DYNAMIC[dynamic]}")):
        one_graph(Reader(), inputs(dynamic, **BOTH))


def test_one_name_for_two_lengths_is_a_usage_error() -> None:
    said = "--dynamic mask:1=n: 'n' is 5 in 'tokens' and 6 in 'mask'; give them different names"
    with pytest.raises(UsageError, match=re.escape(said)):
        one_graph(Reader(), inputs("tokens:1=n", "mask:1=n", tokens="1x5:int64", mask="1x6:bool"))


def test_shapes_and_an_example_exclude_each_other(tmp_path: Path) -> None:
    both = Inputs([parse_spec("tokens", "1x5")], (), saved(tmp_path, tokens=TOKENS, mask=MASK).example)
    with pytest.raises(UsageError, match="--shape and --inputs exclude each other; keep --inputs"):
        one_graph(Reader(), both)


def test_a_gap_in_what_is_passed_by_position_is_a_usage_error() -> None:
    class Gap(nn.Module):
        def forward(self, x, scale=1.0, gain=None):
            return x * scale * gain

    with pytest.raises(UsageError, match=r"forward\(x, scale, gain\): input 'scale' has no shape"):
        one_graph(Gap(), inputs(x="1x2", gain="1x2"))


def test_an_input_by_keyword_only_is_a_usage_error() -> None:
    class Keyword(nn.Module):
        def forward(self, x, *, gain):
            return x * gain

    with pytest.raises(UsageError, match=r"forward\(x, gain\): 'gain' can be given by keyword only; wrap the module"):
        one_graph(Keyword(), inputs(x="1x2", gain="1x2"))


@pytest.mark.parametrize(("result", "said"), [(None, "NoneType"), ({"y": 1}, "dict"), ((), "tuple")])
def test_outputs_that_are_no_tensors_are_refused_with_a_way_out(result: object, said: str) -> None:
    class Odd(nn.Module):
        def forward(self, x):
            return result

    text = rf"Odd\.forward\(\): returns {said}; return a tensor or a tuple of tensors \(wrap the module\)"
    with pytest.raises(Unsupported, match=text):
        one_graph(Odd(), inputs(x="1x2"))


def test_what_forward_prints_goes_to_stderr_and_its_exit_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(nn.Module):
        def forward(self, x):
            print("hello")  # noqa: T201
            raise SystemExit(0)

    with pytest.raises(BadInput, match=r"called sys.exit\(0\); inputs were x: float32\[1, 2\]"):
        one_graph(Loud(), inputs(x="1x2"))
    assert capsys.readouterr() == ("", "hello\n")


def test_a_model_left_in_train_mode_is_put_into_eval_mode() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x)

    module = Dropping().train()
    one_graph(module, inputs(x="1x2"))
    assert not module.training


def test_the_example_is_the_typical_case_of_a_reference(tmp_path: Path) -> None:
    from edgeattn.program import Reference

    _, real = one_graph(Reader(), saved(tmp_path, tokens=TOKENS, mask=MASK))
    assert Reference("x", (Case("normal-1", {}), *real)).typical.name == "real-example"
