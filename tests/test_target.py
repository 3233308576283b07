from __future__ import annotations

import pytest

from edgeattn.errors import RecipeError, UnknownName, UsageError
from edgeattn.recipe import Recipe
from edgeattn.target import parse


@pytest.mark.parametrize(
    ("target", "meaning"),
    [
        ("openvino", ("openvino", "cpu")),
        ("openvino:cpu", ("openvino", "cpu")),
        ("tensorrt-rtx", ("tensorrt_rtx", "sm89")),
        ("tensorrt-rtx:sm120,sm89,sm120", ("tensorrt_rtx", "sm120,sm89")),
    ],
)
def test_names_an_engine_and_its_devices(target: str, meaning: tuple[str, str]) -> None:
    assert parse(target) == meaning


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("tensort-rtx", UnknownName, "unknown target 'tensort-rtx'; did you mean 'tensorrt-rtx'"),
        ("tensorrt-rtx:sm8", UsageError, "'tensorrt-rtx' has no device 'sm8'; did you mean 'sm89' or 'sm86'?"),
        ("tensorrt-rtx:sm89,", UsageError, "'tensorrt-rtx' has no device ''; known: sm120, sm121, sm75"),
        ("myriad", UsageError, "today's VPU is the NPU of a Core Ultra: take openvino:npu"),
        ("VPU", UsageError, "'vpu' is MYRIAD, which was removed in OpenVINO 2023.0"),
        ("jp6.2", UsageError, "unknown target 'jp6.2'; did you mean 'jetson:jp6.2'?"),
        ("onnxruntime:cpu,cpu2", UsageError, "'onnxruntime' has no device 'cpu2'; did you mean 'cpu'?"),
    ],
)
def test_a_name_misspelt_is_answered_with_the_nearest(target: str, kind: type[UsageError], message: str) -> None:
    with pytest.raises(kind) as raised:
        parse(target)
    assert message in str(raised.value)


def test_a_recipe_says_the_line_of_a_device_that_does_not_exist() -> None:
    recipe = Recipe.parse("model: cam_digits\ntarget: tensorrt-rtx:sm98\n", "r.yaml")
    with pytest.raises(RecipeError, match=r"r.yaml:2: 'tensorrt-rtx' has no device 'sm98'; did you mean 'sm89'"):
        recipe.check_names()
