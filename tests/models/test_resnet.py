import numpy as np
import onnxruntime
import pytest
import torch

from edgeattn import registry
from edgeattn.errors import UsageError
from edgeattn.export import export
from edgeattn.models import resnet
from edgeattn.models._macs import count_macs
from tests.models.configured import built, sketched

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
GATING = [n for n in registry.names("blocks") if registry.get("blocks", n).gates]
DIGITS = ["resnet_digits", *(f"{name}_digits" for name in GATING)]


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name):
    net = sketched(name)
    gmacs = count_macs(net, torch.empty(1, 3, 224, 224, device="meta")) / 1e9
    assert (parameters(net), f"{gmacs:.4f}") == PUBLISHED[name]


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("attention", GATING)
def test_every_gating_block_is_a_configuration_at_every_depth(attention, depth):
    net = sketched(f"{attention}_resnet{depth}")
    kind = type(registry.get("blocks", attention).build(16))
    blocks, stages = {18: (8, 4), 34: (16, 4), 50: (16, 4), 101: (33, 4)}[depth]
    assert sum(isinstance(m, kind) for m in net.modules()) == (stages - 1 if attention == "bam" else blocks)


def test_bam_costs_what_its_paper_says_and_sits_once_between_the_stages():
    net = sketched("bam_resnet50")
    assert f"{parameters(net) / 1e6:.2f}" == "25.92"  # Park et al. 2018, ImageNet table
    places = [i for i, block in enumerate(net.blocks) if not isinstance(block, resnet.Residual)]
    assert places == [3, 8, 15]  # behind 3, 4 and 6 residual blocks
    assert all(isinstance(b.attention, torch.nn.Identity) for b in net.blocks if isinstance(b, resnet.Residual))


def test_bam_differs_from_the_released_code_by_what_the_card_says():
    released = 0
    for c in (256, 512, 1024):
        h = c // 16
        mlp = c * h + h + 2 * h + h * c + c  # linear, BatchNorm on the hidden layer, linear
        plane = c * h + h + 2 * (9 * h * h + h) + 3 * 2 * h + h + 1  # a BatchNorm behind f0, f1 and f2
        released += mlp + plane
    ours = parameters(sketched("bam_resnet50")) - parameters(sketched("resnet50"))
    assert ours - released == 2_694
    assert "2,694" in resnet.__doc__


def test_an_attention_takes_its_papers_own_reduction_ratio_unless_told_otherwise():
    hidden = {name: resnet.attention_of(name, 512) for name in ("se", "coordinate")}
    assert (hidden["se"].mlp[0].out_features, hidden["coordinate"].shared.out_channels) == (512 // 16, 512 // 32)
    assert resnet.attention_of("coordinate", 512, reduction=8).shared.out_channels == 64


@pytest.mark.parametrize("order", ["parallel", "spatial-first"])
@pytest.mark.parametrize("depth", [18, 50])
def test_cbams_other_orders_reach_every_block_and_cost_the_same(order, depth):
    net = sketched(f"cbam_{order.replace('-', '_')}_resnet{depth}")
    assert {block.attention.order for block in net.blocks} == {order}
    assert parameters(net) == PUBLISHED[f"cbam_resnet{depth}"][0]


def test_an_unknown_place_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="place: unknown place 'stem'; known: branch, stage"):
        resnet.ResNet(attention="bam", place="stem")


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_cbam_costs_what_its_two_halves_cost(depth):
    count = {kind: parameters(sketched(f"{kind}resnet{depth}")) for kind in ("", "cam_", "sam_", "cbam_")}
    assert count["cbam_"] - count[""] == (count["cam_"] - count[""]) + (count["sam_"] - count[""])


@pytest.mark.parametrize("name", ["resnet50", "cbam_resnet50", "cbam_resnet18", "bam_resnet50", "coordinate_resnet18"])
def test_an_untrained_network_keeps_its_activations_near_unit_size(name):
    net, sizes = built(name), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.std().item()))
    with torch.no_grad():
        net(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert all(0.05 < size < 5 for size in sizes), sizes


@pytest.mark.parametrize("name", GATING)
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
    assert 4 * parameters(net) < 2_000_000
    inside = {m for block in net.modules() if hasattr(block, "gate") for m in block.modules()}  # attention stays float
    trunk = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m not in inside]
    assert all(m.out_channels >= 16 for m in trunk)
    assert all(m.in_channels >= 16 for m in trunk if m is not net.stem[0])
    assert len(trunk) == 9


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
