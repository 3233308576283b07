import numpy as np
import onnxruntime
import pytest
import torch

from edgeattn import models, registry
from edgeattn.errors import UsageError
from edgeattn.export import export
from edgeattn.models import resnet
from edgeattn.models._macs import count_macs

pytestmark = pytest.mark.torch

# Parameters and GMACs at 224×224 of the reference models, stride on the 1×1 convolution.
PUBLISHED = {
    "resnet18": (11_689_512, "1.8141"),
    "resnet34": (21_797_672, "3.6638"),
    "resnet50": (25_557_032, "3.8580"),
    "resnet101": (44_549_160, "7.5702"),
    "se_resnet18": (11_778_592, "1.8142"),
    "se_resnet34": (21_958_868, "3.6639"),
    "se_resnet50": (28_088_024, "3.8605"),
    "se_resnet101": (49_326_872, "7.5749"),
    "cbam_resnet18": (11_779_392, "1.8151"),
    "cbam_resnet34": (21_960_468, "3.6654"),
    "cbam_resnet50": (28_089_624, "3.8644"),
    "cbam_resnet101": (49_330_172, "7.5814"),
}
DIGITS = ["resnet_digits", "se_digits", "cbam_digits"]


def built(name):
    family, config = models.find(name)
    return family.build(**config.options).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name):
    net = built(name).to("meta")
    gmacs = count_macs(net, torch.empty(1, 3, 224, 224, device="meta")) / 1e9
    assert (sum(p.numel() for p in net.parameters()), f"{gmacs:.4f}") == PUBLISHED[name]


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_cbam_costs_what_its_two_halves_cost(depth):
    count = {
        kind: sum(p.numel() for p in built(f"{kind}resnet{depth}").parameters())
        for kind in ("", "cam_", "sam_", "cbam_")
    }
    assert count["cbam_"] - count[""] == (count["cam_"] - count[""]) + (count["sam_"] - count[""])


@pytest.mark.parametrize("name", ["resnet50", "cbam_resnet50", "cbam_resnet18"])
def test_an_untrained_network_keeps_its_activations_near_unit_size(name):
    net, sizes = built(name), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.std().item()))
    with torch.no_grad():
        net(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert all(0.05 < size < 5 for size in sizes), sizes


def test_the_same_seed_builds_the_same_weights_and_leaves_the_global_stream_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = (resnet.ResNet(**models.find("cbam_digits")[1].options).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", [n for n in registry.names("blocks") if registry.get("blocks", n).gates])
def test_every_gating_block_can_be_its_attention(name):
    block = resnet.attention_of(name, 32, reduction=4).eval()
    x = torch.randn(1, 32, 5, 5)
    assert block(x).shape == x.shape


@pytest.mark.parametrize("name", [n for n in registry.names("blocks") if not registry.get("blocks", n).gates])
def test_a_block_that_attends_to_a_memory_is_refused(name):
    with pytest.raises(UsageError, match=f"'{name}' weighs no feature map; one of: bam, cam"):
        resnet.attention_of(name, 32, reduction=4)


def test_attention_sits_after_the_last_norm_of_the_branch_and_before_the_sum():
    block, seen = built("se_digits").blocks[0], {}
    block.branch[-1].register_forward_hook(lambda module, inputs, output: seen.update(norm=output))
    block.attention.register_forward_hook(lambda module, inputs, output: seen.update(input=inputs[0], gated=output))
    x = torch.randn(1, 32, 8, 8)
    y = block(x)
    assert seen["input"] is seen["norm"]
    assert torch.equal(y, torch.relu(seen["gated"] + block.shortcut(x)))


def test_the_stride_of_a_bottleneck_is_on_its_first_convolution():
    strides = [m.stride[0] for m in built("resnet50").blocks[3].branch if isinstance(m, torch.nn.Conv2d)]
    assert strides == [2, 1, 1]


@pytest.mark.parametrize("name", DIGITS)
def test_a_digits_network_is_small_and_wide_enough_for_int8(name):
    net = built(name)
    assert sum(p.numel() * 4 for p in net.parameters()) < 2_000_000
    wide = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels >= 16]
    assert all(m.in_channels >= 16 for m in wide if m is not net.stem[0])
    assert len(wide) == 9


def engine_error(program, net, shapes):
    """Largest difference between eager PyTorch and ONNX Runtime over inputs of several shapes."""
    session = onnxruntime.InferenceSession(program.graphs["main"].SerializeToString())
    worst = 0.0
    for shape in shapes:
        image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = net(image).numpy()
        (actual,) = session.run(None, {"image": image.numpy()})
        assert actual.shape == expected.shape
        worst = max(worst, float(np.abs(actual - expected).max()))
    return worst


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", DIGITS)
def test_a_digits_network_exports_with_any_batch(name):
    net = built(name)
    program = export(resnet.source(net))
    assert {node.domain for node in program.graphs["main"].graph.node} == {""}
    # float32 sums in another order; logits are of unit size
    assert engine_error(program, net, [(1, 1, 32, 32), (5, 1, 32, 32)]) < 1e-5


@pytest.mark.slow
@pytest.mark.onnxruntime
def test_cbam_resnet50_exports_with_any_batch_height_and_width():
    net = built("cbam_resnet50")
    program = export(resnet.source(net))
    assert {node.domain for node in program.graphs["main"].graph.node} == {""}
    # float32 sums in another order; logits are of unit size
    assert engine_error(program, net, [(1, 3, 224, 224), (2, 3, 96, 160)]) < 1e-5
