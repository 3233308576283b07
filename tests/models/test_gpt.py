import functools

import numpy as np
import pytest
import torch

from edgeattn import decode, models
from edgeattn.export import eager_sessions
from edgeattn.models import gpt
from tests.models import equations
from tests.models.equations import gelu, mapped, turned

pytestmark = pytest.mark.torch

SMALL = {"vocabulary": 19, "longest": 24, "width": 16, "layers": 2, "heads": 4}
VARIANTS = [
    {"positions": "learned"},
    {"positions": "sinusoidal", "tied": False},
    {"positions": "rotary", "kv_heads": 2, "approximate": "none"},
    {"positions": "rotary", "kv_heads": 1, "hidden": 24, "tied": False},
]


def small(**options):
    """Untrained weights are tiny: these are of unit size, so that every part of the network shows in the logits."""
    net = gpt.Gpt(**{**SMALL, **options}).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return net


def decoded(net, feeds, tokens=None):
    source = gpt.source(net)
    return decode.run(eager_sessions(source), source.wiring, feeds, tokens)


def prompt(*rows, width=0):
    """Rows of tokens as feeds, padded at the end to the longest or to ``width``."""
    width = max(width, *map(len, rows))
    tokens = np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int64)
    return {"tokens": tokens, "mask": np.arange(width) < np.array([[len(row)] for row in rows])}


normed = functools.partial(equations.normed, eps=1e-5)


def numpy_gpt(net, tokens, approximate):
    """Logits after each token of one row, position by position and head by head, in float64."""
    p = {name: value.double().numpy() for name, value in net.state_dict().items()}
    heads, groups, d = SMALL["heads"], *net.cache
    block = net.layers[0].attention
    frequencies = block.frequencies.double().numpy() if block.rotary else np.zeros(d // 2)
    rows = []
    for position, token in enumerate(tokens):
        added = 0 if net.positions is None else net.positions(torch.tensor(position)).detach().double().numpy()
        rows.append(p["embed.weight"][token] + added)
    for layer in range(len(net.layers)):
        at = f"layers.{layer}"
        read = [normed(x, p, f"{at}.attention_norm") for x in rows]
        keys, values, after = [], [], []
        for t, z in enumerate(read):
            k = mapped(z, p, f"{at}.attention.key").reshape(groups, d)
            keys.append([turned(part, t, frequencies) for part in k])
            values.append(mapped(z, p, f"{at}.attention.value").reshape(groups, d))
            joined = []
            for head, q in enumerate(mapped(z, p, f"{at}.attention.query").reshape(heads, d)):
                group = head * groups // heads
                scores = np.array([turned(q, t, frequencies) @ keys[s][group] for s in range(t + 1)]) / np.sqrt(d)
                weights = np.exp(scores - scores.max())
                joined.append(sum(w * values[s][group] for s, w in enumerate(weights / weights.sum())))
            x = rows[t] + mapped(np.concatenate(joined), p, f"{at}.attention.output")
            inner = gelu(mapped(normed(x, p, f"{at}.feed_forward_norm"), p, f"{at}.feed_forward.widen"), approximate)
            after.append(x + mapped(inner, p, f"{at}.feed_forward.narrow"))
        rows = after
    out = p.get("head.weight", p["embed.weight"])
    return np.array([out @ normed(x, p, "norm") for x in rows])


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_equations_in_float64(options):
    net = small(**options).double()
    rows = [[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8], [6]]
    feeds = prompt(*rows)
    actual = net(torch.from_numpy(feeds["tokens"]), torch.from_numpy(feeds["mask"])).detach().numpy()
    for row, tokens in enumerate(rows):
        expected = numpy_gpt(net, tokens, options.get("approximate", "tanh"))
        # float64 on both sides, only the order of sums differs; logits are of size 10
        np.testing.assert_allclose(actual[row, : len(tokens)], expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize(("length", "steps"), [(1, 1), (1, 9), (7, 5), (12, 12)])
def test_prefill_and_steps_give_what_one_pass_over_the_whole_text_gives(options, length, steps):
    net = small(**options)
    text = np.random.default_rng(0).integers(0, 19, (3, length + steps))
    with torch.no_grad():
        whole = net(torch.from_numpy(text), torch.ones(3, length + steps, dtype=torch.bool)).numpy()
    out = decoded(net, {"tokens": text[:, :length], "mask": np.ones((3, length), bool)}, text[:, length:])
    # float32 sums in another order; logits are of size 10
    np.testing.assert_allclose(out["prefill.logits"], whole[:, length - 1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out["logits"].swapaxes(0, 1), whole[:, length:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_row_of_a_ragged_batch_is_continued_as_if_it_were_alone(options):
    net, rows = small(**options), [[3, 1, 4, 1, 5], [9], [2, 6]]
    forced = np.array([[5, 3, 5], [8, 9, 7], [9, 3, 2]])
    together = decoded(net, prompt(*rows, width=9), forced)
    for i, row in enumerate(rows):
        alone = decoded(net, prompt(row), forced[i : i + 1])
        for name, axis in (("prefill.logits", 0), ("logits", 1)):
            # float32; masked positions add exact zeros, but a longer sum may be cut into other blocks
            np.testing.assert_allclose(
                together[name].take([i], axis), alone[name], rtol=1e-4, atol=1e-4, err_msg=f"row {i}"
            )


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_what_stands_in_the_padding_changes_nothing(options):
    net, forced = small(**options), np.array([[5, 3], [8, 9], [1, 1]])
    feeds = prompt([3, 1, 4], [9], [])
    other = {**feeds, "tokens": np.where(feeds["mask"], feeds["tokens"], 7)}
    first, second = decoded(net, feeds, forced), decoded(net, other, forced)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(np.isfinite(value).all() for value in first.values())


def test_padding_is_never_visible_and_new_tokens_always_are():
    out = decoded(small(), prompt([3, 1, 4], [9], []), np.array([[5, 3], [8, 9], [1, 1]]))
    assert out["visible_out"].tolist() == [
        [True, True, True, True, True],
        [True, False, False, True, True],
        [False, False, False, True, True],
    ]


def test_the_cache_holds_a_group_of_keys_and_values_for_every_position():
    out = decoded(small(positions="rotary", kv_heads=2), prompt([3, 1, 4], [9]), np.array([[5, 3], [8, 9]]))
    assert out["present_key_0"].shape == out["present_value_1"].shape == (2, 2, 5, 4)


def test_greedy_decoding_starts_with_what_the_prompt_predicts():
    net = small(positions="rotary", max_steps=5)
    feeds = prompt([3, 1, 4, 1])
    tokens = decoded(net, feeds)["tokens"][0].tolist()
    text = [3, 1, 4, 1]
    for token in tokens:
        logits = net(torch.tensor([text]), torch.ones(1, len(text), dtype=torch.bool))
        assert token == logits[0, -1].argmax().item()
        text.append(token)
    assert len(tokens) == 5 or tokens[-1] == net.stop.end


def test_gpt2_small_has_the_published_number_of_parameters():
    family, config = models.find("gpt2_small")
    with torch.device("meta"):
        net = family.build(**config.options)
    assert sum(p.numel() for p in net.parameters()) == 124_439_808


def test_an_untrained_network_starts_near_a_uniform_guess_and_the_same_seed_repeats_it():
    first, second = (gpt.Gpt(**SMALL).eval() for _ in range(2))
    feeds = [torch.from_numpy(value) for value in prompt([3, 1, 4, 1, 5]).values()]
    assert torch.equal(first(*feeds), second(*feeds))
    assert first(*feeds).abs().max() < 1


def test_cases_cover_the_edges():
    net = small()
    cases = {case.name: case for case in gpt.cases(net, seed=0)}
    assert set(cases) == {
        "normal-b3", "normal-b1", "normal-b2", "length-1", "length-max", "ragged", "masked-row",
    }  # fmt: skip
    longest = cases["length-max"]
    assert longest.feeds["tokens"].shape[1] + longest.tokens.shape[1] == net.longest
    assert not cases["masked-row"].feeds["mask"][1].any()
    again = gpt.cases(net, seed=0)
    assert all(np.array_equal(case.tokens, cases[case.name].tokens) for case in again)
