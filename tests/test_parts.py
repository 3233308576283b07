"""What a list of targets and precisions means, before anything is built."""

from __future__ import annotations

import pytest

from edgeattn import parts
from edgeattn.errors import UsageError
from edgeattn.recipe import Recipe

INT8 = "model: cam_digits\ntarget: openvino:cpu\nprecision: int8\nquantize: {scheme: int8-static, gate: int8}\n"


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("openvino:cpu,onnxruntime", ["openvino:cpu", "onnxruntime"]),
        ("tensorrt-rtx:sm89,sm120, onnxruntime", ["tensorrt-rtx:sm89,sm120", "onnxruntime"]),  # one file for both
        ("tensorrt-rtx:sm89,tensorrt-rtx:sm120", ["tensorrt-rtx:sm89", "tensorrt-rtx:sm120"]),  # a file for each
    ],
)
def test_a_bare_device_belongs_to_the_engine_before_it(text: str, targets: list[str]) -> None:
    assert parts.targets_in(text) == targets


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("onnxruntime,openvno:cpu", "--targets: unknown target 'openvno:cpu'; did you mean 'openvino'?"),
        ("tensorrt-rtx:sm89,sm12", "--targets: unknown target 'sm12'; did you mean 'sm121' or 'sm120'?"),
        ("openvino:cpx", "--targets: 'openvino' has no device 'cpx'; did you mean 'cpu'?"),
        ("openvino,openvino:cpu", "--targets: 'openvino' and 'openvino:cpu' are the same; name each once"),
        (
            "tensorrt-rtx:sm89,sm120,tensorrt-rtx:sm120,sm89",
            "--targets: 'tensorrt-rtx:sm89,sm120' and 'tensorrt-rtx:sm",
        ),
        ("onnxruntime,,openvino", "--targets: names no target between two commas; like openvino:cpu,onnxruntime"),
    ],
)
def test_a_wrong_target_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        parts.targets_in(text)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fp32,int9", "--precisions: unknown precision 'int9'; did you mean 'int8'?"),
        ("int8,int8", "--precisions: 'int8' twice; name each once"),
    ],
)
def test_a_wrong_precision_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        parts.precisions_in(text)
    assert str(raised.value) == told


def test_a_part_keeps_the_recipes_own_precision_and_takes_the_plain_scheme_of_another() -> None:
    recipe = Recipe.parse(f"{INT8}gates: {{size_ratio: 0.5, task_min: 0.9}}")
    found = parts.parts_of(recipe, ["onnxruntime", "tensorrt-rtx:sm89,sm120"], ["int8", "fp16", "fp32"])
    assert [part.name for part in found[::3]] == ["onnxruntime-cpu.int8", "tensorrt-rtx-sm89+sm120.int8"]
    own, half, full = (recipe.with_overrides(part.settings) for part in found[:3])
    assert (own.quantize, own.gates) == (recipe.quantize, recipe.gates)
    assert half.quantize is not None
    assert (half.quantize.scheme, half.gates.size_ratio, half.gates.task_min) == ("fp16", None, 0.9)
    assert (full.precision, full.quantize) == ("fp32", None)


def test_what_the_recipe_says_of_one_engine_or_precision_is_left_out_of_the_others_and_told() -> None:
    text = "model: cam_digits\ntarget: tensorrt-rtx:sm89\nprofile: {batch: [1, 1, 8]}\nengine: {optimization: 3}\n"
    recipe = Recipe.parse(f"{text}gates: {{size_ratio: 5}}")
    targets = ["tensorrt-rtx:sm120", "onnxruntime"]
    own, other = (recipe.with_overrides(p.settings) for p in parts.parts_of(recipe, targets, ["fp32"]))
    assert (own.profile, own.engine) == (recipe.profile, recipe.engine)
    assert (other.profile, other.engine) == ((), {})
    assert parts.left_out(recipe, targets, ["fp32", "int8"]) == [
        "the recipe's engine is not asked of onnxruntime",
        "the recipe's profile is not asked of onnxruntime",
        "the recipe's gates.size_ratio is not asked of int8",
    ]
    assert parts.left_out(recipe, targets[:1], ["fp32"]) == []
