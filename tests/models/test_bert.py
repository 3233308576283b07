import functools

import numpy as np
import pytest
import torch

from edgeattn import models
from edgeattn.export import eager_sessions
from edgeattn.models import bert
from tests.models import equations
from tests.models.equations import gelu, mapped, turned

pytestmark = pytest.mark.torch

SMALL = {"vocabulary": 19, "longest": 12, "width": 16, "layers": 2, "heads": 4, "eps": 1e-12}
POOLED = {"segments": 2, "hidden": 24}
SLOTS = {"slots": 3, "labels": 5, "positions": "rotary"}


def small(**options):
    """Untrained weights are tiny: these are of unit size, so that every part of the network shows in the outputs."""
    net = bert.Bert(**{**SMALL, **options}).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return net


def run(net, feeds):
    (session,) = eager_sessions(bert.source(net)).values()
    return session.run(feeds)


def texts(net, *lengths, width=0, seed=0):
    rng, width = np.random.default_rng(seed), max(width, *lengths)
    shape = len(lengths), width
    feeds = {"src": rng.integers(0, 19, shape), "src_mask": np.arange(width) < np.array(lengths)[:, None]}
    return {**feeds, "segments": rng.integers(0, 2, shape)} if net.segments is not None else feeds


normed = functools.partial(equations.normed, eps=1e-12)


def numpy_bert(net, src, segments):
    """Hidden states of one row without padding, slots first, vector by vector in float64."""
    p = {name: value.double().numpy() for name, value in net.state_dict().items()}
    heads, d = SMALL["heads"], SMALL["width"] // SMALL["heads"]
    rows = [p["embed.weight"][token] for token in src]
    if "positions.weight" in p:
        rows = [x + p["positions.weight"][i] for i, x in enumerate(rows)]
    if segments is not None:
        rows = [x + p["segments.weight"][s] for x, s in zip(rows, segments, strict=True)]
    rows = [normed(x, p, "norm") for x in [*p.get("slots.weight", []), *rows]]
    block = net.layers[0].attention
    frequencies = block.frequencies.double().numpy() if block.rotary else np.zeros(d // 2)
    for layer in range(SMALL["layers"]):
        at = f"layers.{layer}.attention"
        q, k, v = ([mapped(x, p, f"{at}.{kind}").reshape(heads, d) for x in rows] for kind in ("query", "key", "value"))
        after = []
        for t, x in enumerate(rows):
            joined = []
            for head in range(heads):
                turn = [turned(k[s][head], s, frequencies) for s in range(len(rows))]
                scores = np.array(turn) @ turned(q[t][head], t, frequencies) / np.sqrt(d)
                weights = np.exp(scores - scores.max())
                joined.append((weights / weights.sum()) @ np.array([part[head] for part in v]))
            x = normed(x + mapped(np.concatenate(joined), p, f"{at}.output"), p, f"layers.{layer}.attention_norm")
            inner = gelu(mapped(x, p, f"layers.{layer}.feed_forward.widen"))
            x = x + mapped(inner, p, f"layers.{layer}.feed_forward.narrow")
            after.append(normed(x, p, f"layers.{layer}.feed_forward_norm"))
        rows = after
    return np.array(rows), p


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_hidden_states_and_pooled_equal_the_equations_in_float64(positions):
    net = small(**POOLED, positions=positions).double()
    feeds, lengths = texts(net, 7, 3, 1), (7, 3, 1)
    outputs = run(net, feeds)
    for row, length in enumerate(lengths):
        expected, p = numpy_bert(net, feeds["src"][row, :length], feeds["segments"][row, :length])
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(outputs["hidden"][row, :length], expected, rtol=1e-10, atol=1e-11)
        pooled = np.tanh(mapped(expected[0], p, "output"))
        np.testing.assert_allclose(outputs["pooled"][row], pooled, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_slots_equal_the_equations_in_float64(positions):
    net = small(**{**SLOTS, "positions": positions}).double()
    feeds, lengths = texts(net, 7, 3, 1), (7, 3, 1)
    logits = run(net, feeds)["logits"]
    for row, length in enumerate(lengths):
        hidden, p = numpy_bert(net, feeds["src"][row, :length], None)
        expected = [mapped(x, p, "output") for x in hidden[:3]]
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(logits[row], expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("options", [POOLED, SLOTS], ids=["pooled", "slots"])
def test_padding_changes_nothing(options):
    net = small(**options)
    feeds = texts(net, 7, 3, 0)
    padded = {name: np.pad(value, ((0, 0), (0, 5))) for name, value in feeds.items()}
    other = {**padded, "src": np.where(padded["src_mask"], padded["src"], 11)}
    plain, longer, filled = run(net, feeds), run(net, padded), run(net, other)
    for name in plain.keys() - {"hidden"}:
        # float32; masked positions add exact zeros, but a longer sum may be cut into other blocks
        np.testing.assert_allclose(longer[name], plain[name], rtol=1e-4, atol=1e-5)
        assert np.array_equal(filled[name], longer[name])
    if "hidden" in plain:
        valid = feeds["src_mask"]
        # as above
        np.testing.assert_allclose(longer["hidden"][:, :7][valid], plain["hidden"][valid], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [POOLED, SLOTS], ids=["pooled", "slots"])
def test_a_fully_masked_row_stays_finite_and_does_not_depend_on_its_tokens(options):
    net = small(**options)
    first, second = (run(net, texts(net, 4, 0, seed=seed)) for seed in (1, 2))
    for name in first:
        assert np.isfinite(first[name]).all()
        assert np.array_equal(first[name][1], second[name][1])
        assert not np.array_equal(first[name][0], second[name][0])


def test_segments_are_an_input_only_where_there_are_any():
    with_segments, without = (bert.source(small(**options)) for options in (POOLED, SLOTS))
    assert [spec.name for spec in with_segments.graphs["main"].inputs] == ["src", "src_mask", "segments"]
    assert [spec.name for spec in without.graphs["main"].inputs] == ["src", "src_mask"]


def test_a_text_in_another_segment_reads_differently():
    net = small(**POOLED)
    feeds = texts(net, 5)
    zeros, ones = ({**feeds, "segments": np.full_like(feeds["src"], s)} for s in (0, 1))
    assert not np.allclose(run(net, zeros)["pooled"], run(net, ones)["pooled"])


def test_bert_base_has_the_published_number_of_parameters():
    family, config = models.find("bert_base")
    with torch.device("meta"):
        net = family.build(**config.options)
    assert sum(p.numel() for p in net.parameters()) == 109_482_240


def test_cases_cover_the_edges():
    net = small(**POOLED)
    cases = {case.name: case for case in bert.cases(net, seed=0)}
    assert set(cases) == {
        "normal-b3", "normal-b1", "normal-b2", "length-1", "length-max", "ragged", "masked-row",
    }  # fmt: skip
    assert cases["length-max"].feeds["src"].shape[1] == net.longest
    assert not cases["masked-row"].feeds["src_mask"][1].any()
    again = bert.cases(net, seed=0)
    assert all(np.array_equal(case.feeds["src"], cases[case.name].feeds["src"]) for case in again)
