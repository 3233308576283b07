import onnxruntime
import pytest
import torch
from torch import nn

from edgeattn.blocks.se import Se
from edgeattn.export import export
from edgeattn.models import mobilenet
from edgeattn.models._macs import count_macs
from edgeattn.recognise import recognise
from tests.models.configured import built, sketched

pytestmark = pytest.mark.torch

NAMES = ["mobilenetv3_large", "mobilenetv3_small", "mobilenet_digits"]
# Parameters usually quoted for 1000 classes, our multiply-accumulates at 224×224, and the paper's, in millions.
PUBLISHED = {"mobilenetv3_large": (5_483_032, 216_589_760, 219), "mobilenetv3_small": (2_542_856, 56_510_400, 56)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_quoted_ones_and_macs_are_near_the_papers(name):
    net, (parameters, macs, papers) = sketched(name), PUBLISHED[name]
    assert sum(p.numel() for p in net.parameters()) == parameters
    counted = count_macs(net, torch.empty(1, 3, 224, 224, device="meta"))
    assert counted == macs
    # The paper does not say how it rounds the squeeze widths, nor what it counts besides layers.
    assert counted == pytest.approx(papers * 1e6, rel=0.015)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_card_quotes_what_is_counted(name):
    parameters, macs, papers = PUBLISHED[name]
    for figure in (f"{parameters:,}", f"{macs / 1e6:.1f} M", f"{papers} M"):
        assert figure in mobilenet.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_se_squeezes_to_a_quarter_in_multiples_of_eight_behind_a_hard_sigmoid(name):
    gates = [m for m in sketched(name).modules() if isinstance(m, Se)]
    assert len(gates) == {"mobilenetv3_large": 8, "mobilenetv3_small": 9, "mobilenet_digits": 4}[name]
    for se in gates:
        first = se.mlp[0]
        assert first.out_features % 8 == 0
        assert 0.9 * first.in_features / 4 <= first.out_features <= max(first.in_features / 4 + 8, 8)
        assert isinstance(se.gate, nn.Hardsigmoid)


def test_a_block_expands_filters_gates_projects_and_sums():
    block = built("mobilenet_digits").blocks[1]
    x = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gated = block.attention(block.depthwise(block.expand(x)))
        assert torch.equal(block(x), x + block.project(gated))
    assert block.depthwise[0].groups == block.depthwise[0].out_channels == 96
    assert not any(isinstance(m, nn.ReLU | nn.Hardswish) for m in block.project)


def test_a_block_is_summed_only_where_shapes_agree_and_expands_only_where_it_must():
    blocks = sketched("mobilenetv3_large").blocks
    assert [i for i, b in enumerate(blocks) if b.summed] == [0, 2, 4, 5, 7, 8, 9, 11, 13, 14]
    assert [i for i, b in enumerate(blocks) if not len(b.expand)] == [0]


@pytest.mark.parametrize(
    ("name", "sides"), [("mobilenetv3_large", 7), ("mobilenetv3_small", 7), ("mobilenet_digits", 4)]
)
def test_the_strides_leave_the_papers_map(name, sides):
    net, sizes = sketched(name), []
    net.last.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[2:]))
    side = net.size or 224
    net(torch.empty(1, net.channels, side, side, device="meta"))
    assert sizes == [(sides, sides)]


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_network_keeps_its_activations_near_unit_size(name):
    net, sizes = built(name), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.std().item()))
    side = net.size or 96
    with torch.no_grad():
        net(torch.randn(1, net.channels, side, side, generator=torch.Generator().manual_seed(0)))
    assert all(0.05 < size < 5 for size in sizes), sizes


def test_the_digits_network_is_small_and_wide_enough_for_int8():
    net = sketched("mobilenet_digits")
    assert 4 * sum(p.numel() for p in net.parameters()) < 2_000_000
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.out_channels >= 16 for m in convs)
    assert all(m.in_channels >= 16 for m in convs if m is not net.stem[0])


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", ["mobilenet_digits", pytest.param("mobilenetv3_small", marks=pytest.mark.slow)])
def test_exports_with_any_batch_and_its_gates_are_found(name):
    net = built(name)
    model = export(mobilenet.source(net)).graphs["main"]
    assert {node.domain for node in model.graph.node} == {""}
    found = recognise(model)
    assert {a.kind for a in found} == {"se"}
    assert len(found) == sum(isinstance(m, Se) for m in net.modules())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    shapes = [(1, 1, 32, 32), (5, 1, 32, 32)] if net.size else [(1, 3, 96, 96), (2, 3, 64, 160)]
    for shape in shapes:
        image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = net(image)
        (actual,) = session.run(None, {"image": image.numpy()})
        # float32 sums in another order; logits are of unit size
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-5)
