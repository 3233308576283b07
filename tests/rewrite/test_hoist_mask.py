"""A decoder's mask as numbers: where they come from, and that whole rows without a valid position stay zeros."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import backends, decode, registry
from edgeattn.graphs import program_inputs

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "hoist_mask")


def test_the_caller_gives_the_mask_as_before_and_the_step_is_handed_numbers() -> None:
    source = RULE.examples()[0]
    program = RULE.apply(source).program
    assert [str(spec) for spec in program_inputs(program)] == [str(spec) for spec in program_inputs(source)]
    step = program.graphs["step"].graph
    assert [v.name for v in step.input] == ["token", "h", "memory", "mask_numbers", "mask_numbers_2"]
    assert not {"Where", "Not"} & {node.op_type for node in step.node}
    assert program.wiring.feeds["step.mask_numbers"] == "encoder.mask_numbers"


def test_a_mask_that_only_the_encoder_knows_is_not_handed_over_any_more() -> None:
    program = RULE.apply(RULE.examples()[3]).program
    assert "step.mask" not in program.wiring.feeds
    assert {"step.mask_numbers", "step.mask_numbers_2"} < program.wiring.feeds.keys()


@pytest.mark.parametrize("kept", [(4, 2), (4, 0)], ids=["padding", "a row without a valid position"])
def test_weights_and_tokens_are_the_same_to_the_bit(kept) -> None:
    source = RULE.examples()[0]
    mask = np.arange(4) < np.array(kept)[:, None]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32), "mask": mask}
    before, after = (
        decode.run(backends.oracle(program), program.wiring, feeds) for program in (source, RULE.apply(source).program)
    )
    assert set(before) == set(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not after["w"][:, ~mask].any()
