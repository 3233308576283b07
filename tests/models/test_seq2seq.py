import itertools

import numpy as np
import pytest
import torch

from edgeattn import models
from edgeattn import rewrite as stage
from edgeattn.backends import oracle
from edgeattn.export import export
from edgeattn.models import seq2seq
from edgeattn.models._translator import cases
from edgeattn.tasks import dates
from tests.models.translators import agrees_on_every_engine, decoded, drawn, parameters, sigmoid, softmax

pytestmark = pytest.mark.torch

SMALL = {"source_vocabulary": 11, "target_vocabulary": 9, "embedding": 6, "width": 8, "layers": 2, "max_source": 9}
WINDOWS = (None, 1.5)
SCORES = ("general", "dot", "concat")
VARIANTS = [
    {"score": score, "window": window, "feeding": feeding}
    for score, window, feeding in itertools.product(SCORES, WINDOWS, (True, False))
]


def small(**options):
    return seq2seq.Seq2Seq(**{**SMALL, **options}).eval()


def called(options):
    return "-".join(str(value) for value in options.values())


def lstm_step(x, h, c, weights):
    """One LSTM step from PyTorch's four weight arrays, gates in the order i, f, g, o."""
    w_ih, w_hh, b_ih, b_hh = weights
    i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def luong_scores(p, score, h, memory):
    """Equation 8."""
    if score == "dot":
        return memory @ h
    if score == "general":
        return memory @ p["step.attention.project.weight"].T @ h
    both = np.concatenate((np.tile(h, (len(memory), 1)), memory), 1)
    return np.tanh(both @ p["step.attention.join.weight"].T) @ p["step.attention.v.weight"][0]


def luong_weights(p, score, window, h, memory):
    """Equation 7, or 9 and 10 when there is a window."""
    scores = luong_scores(p, score, h, memory)
    if window is None:
        return softmax(scores)
    position = np.arange(len(memory))
    locate = sigmoid(p["step.attention.locate.2.weight"][0] @ np.tanh(p["step.attention.locate.0.weight"] @ h))
    inside = np.abs(position - len(memory) * locate) <= window
    weights = np.zeros(len(memory))
    weights[inside] = softmax(scores[inside])
    return weights * np.exp(-((position - len(memory) * locate) ** 2) / (2 * (window / 2) ** 2))


def numpy_seq2seq(net, src, length, tokens, score="general"):
    """Logits of one row from the paper's equations, float64, over the valid positions only."""
    p = parameters(net)
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    outputs = p["encoder.embed.weight"][src[:length]]
    state = []
    for layer in range(net.layers):
        weights = [p[f"encoder.layers.{layer}.{kind}_l0"] for kind in kinds]
        h = c = np.zeros(net.width)
        rows = []
        for x in outputs:
            h, c = lstm_step(x, h, c, weights)
            rows.append(h)
        outputs = np.array(rows)
        state.append((h, p[f"encoder.bridges.{layer}.weight"] @ h + p[f"encoder.bridges.{layer}.bias"]))
    feed, logits = np.zeros(net.width), []
    for token in tokens:
        x = p["step.embed.weight"][token]
        if net.feeding:
            x = np.concatenate((x, feed))
        for layer in range(net.layers):
            state[layer] = lstm_step(x, *state[layer], [p[f"step.cells.{layer}.{kind}"] for kind in kinds])
            x = state[layer][0]
        context = luong_weights(p, score, net.window, x, outputs) @ outputs
        feed = np.tanh(p["step.combine.weight"] @ np.concatenate((context, x)))
        logits.append(p["step.output.weight"] @ feed + p["step.output.bias"])
    return np.array(logits)


@pytest.mark.parametrize(("lengths", "padding"), [([5, 6], 0), ([7], 2), ([1, 9, 4], 3)])
@pytest.mark.parametrize("variant", VARIANTS, ids=called)
def test_equals_the_papers_equations_in_float64(variant, lengths, padding):
    net = small(**variant).double()
    feeds, tokens = drawn(len(lengths), lengths, padding, 4, (11, 9))
    actual = decoded_double(net, feeds, tokens)
    for row, length in enumerate(lengths):
        expected = numpy_seq2seq(net, feeds["src"][row], length, tokens[row], variant["score"])
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual[row], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("embedding", "width", "layers"), [(3, 4, 1), (5, 12, 3)])
def test_equals_the_equations_at_other_sizes_too(embedding, width, layers):
    net = small(embedding=embedding, width=width, layers=layers).double()
    feeds, tokens = drawn(0, [6], 1, 5, (11, 9))
    expected = numpy_seq2seq(net, feeds["src"][0], 6, tokens[0])
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(decoded_double(net, feeds, tokens)[0], expected, rtol=1e-10, atol=1e-13)


def decoded_double(net, feeds, tokens):
    """Logits ``(B, T, V)`` of a float64 net, step by step through its two graphs."""
    memory, *states = net.encoder(torch.from_numpy(feeds["src"]), torch.from_numpy(feeds["src_mask"]))
    if net.feeding:
        states.append(torch.zeros(len(tokens), net.width, dtype=torch.float64))
    logits = []
    for token in torch.from_numpy(tokens).unbind(1):
        out, _, *states = net.step(token, memory, torch.from_numpy(feeds["src_mask"]), *states)
        logits.append(out)
    return torch.stack(logits, 1).detach().numpy()


@pytest.mark.parametrize("variant", VARIANTS, ids=called)
def test_the_training_forward_and_the_wired_graphs_agree(variant):
    net = small(**variant)
    for case in cases(net, seed=1):
        stepwise = decoded(net, case.feeds, case.tokens)["logits"].swapaxes(0, 1)
        whole = net(*(torch.from_numpy(v) for v in (case.feeds["src"], case.feeds["src_mask"], case.tokens)))
        # float32; the training path projects the keys once, in a larger product
        np.testing.assert_allclose(stepwise, whole.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("padding", [1, 7, 30])
def test_what_follows_as_padding_changes_nothing(padding, window):
    net, rng = small(window=window), np.random.default_rng(0)
    src, tokens = rng.integers(0, 11, (3, 5)), rng.integers(0, 9, (3, 4))
    mask = np.arange(5) < np.array([[5], [3], [0]])
    longer = {
        "src": np.concatenate((src, rng.integers(0, 11, (3, padding))), 1),
        "src_mask": np.pad(mask, ((0, 0), (0, padding))),
    }
    plain, padded = decoded(net, {"src": src, "src_mask": mask}, tokens), decoded(net, longer, tokens)
    for name in ("logits", "h_out", "c_out", "feed_out"):
        # float32; masked positions add exact zeros, but a longer sum may be cut into other blocks
        np.testing.assert_allclose(padded[name], plain[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded["alignment"][:, :, :5], plain["alignment"], rtol=1e-5, atol=1e-6)
    assert not padded["alignment"][:, :, 5:].any()


@pytest.mark.parametrize("window", WINDOWS)
def test_a_fully_masked_row_stays_finite_and_ignores_its_tokens(window):
    net, mask = small(window=window), np.zeros((1, 4), bool)
    first, second = (decoded(net, {"src": np.full((1, 4), t), "src_mask": mask}, np.array([[0, 3]])) for t in (1, 2))
    assert np.isfinite(first["logits"]).all()
    assert not first["alignment"].any()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_attentional_state_is_fed_into_the_next_step_only_when_asked():
    net, memory, mask = small(), torch.zeros(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    token, states = torch.zeros(1, dtype=torch.int64), (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
    without, fed = (net.step(token, memory, mask, *states, torch.full((1, 8), value))[0] for value in (0.0, 1.0))
    assert not torch.equal(without, fed)
    wiring = seq2seq.source(small(feeding=False)).wiring
    assert wiring.state == {"step.h": "step.h_out", "step.c": "step.c_out"}


def test_cases_cover_the_edges():
    net = small()
    found = {case.name: case for case in cases(net, seed=0)}
    assert set(found) == {
        "normal-b1", "normal-b2", "length-1", "length-max", "ragged", "masked-row", "repeated-token",
    }  # fmt: skip
    assert found["length-max"].feeds["src"].shape == (2, net.max_source)
    assert not found["masked-row"].feeds["src_mask"][1].any()
    assert len(np.unique(found["repeated-token"].feeds["src"])) == 1
    assert all((case.tokens[:, 0] == net.stop.start).all() for case in found.values())
    again = cases(net, seed=0)
    assert all(np.array_equal(case.tokens, found[case.name].tokens) for case in again)


def test_no_case_asks_two_engines_on_which_side_of_the_window_a_position_lies():
    net = small(window=1.5, max_source=20)
    with torch.no_grad():
        net.step.attention.locate[2].weight.mul_(30)  # centres all over the source, as after training
    assert all(net.edge_distance(case) > 0.01 for seed in range(5) for case in cases(net, seed))
    net.fair = lambda case: True
    assert any(net.edge_distance(case) <= 0.01 for seed in range(5) for case in cases(net, seed))


def test_the_distance_from_the_window_is_that_of_the_nearest_valid_position_in_any_step():
    net = small(window=2)
    with torch.no_grad():
        net.step.attention.locate[2].weight.zero_()  # the centre is half of the length: 2.5 of 5
    (case, *_) = (c for c in cases(net, seed=0) if c.name == "ragged")
    case.feeds["src_mask"][:] = np.arange(case.feeds["src_mask"].shape[1]) < np.array([[4], [3], [0]])
    # row 0: centre 2, edges 0 and 4, and position 0 is on one; row 1: centre 1.5, edges -0.5 and 3.5
    assert net.edge_distance(case) == pytest.approx(0, abs=1e-6)
    case.feeds["src_mask"][0] = False
    assert net.edge_distance(case) == pytest.approx(0.5, abs=1e-6)


def test_the_dates_configuration_matches_the_tasks_vocabulary():
    options = models.find("luong_dates")[1].options
    assert options["source_vocabulary"] == len(dates.SOURCE_TOKENS)
    assert options["target_vocabulary"] == len(dates.TARGET_TOKENS)
    assert (options["start"], options["end"]) == (dates.START, dates.END)
    assert options["max_source"] == dates.MAX_LENGTH
    assert options["max_steps"] > dates.TARGET_LENGTH


def test_the_latency_configuration_has_the_published_size():
    family, config = models.find("luong_2x512")
    step = family.build(**config.options).step
    read_every_step = [*step.cells.parameters(), *step.combine.parameters(), *step.output.parameters()]
    assert round(sum(p.numel() for p in read_every_step) / 1e6, 1) == 9.4


def test_the_trained_checkpoint_keeps_its_keys():
    from edgeattn import weights

    family, config = models.find("luong_dates")
    stored, _ = weights.read(weights.locate("luong_dates"))
    assert stored.keys() == family.build(**config.options).state_dict().keys()


@pytest.mark.onnxruntime
@pytest.mark.openvino
@pytest.mark.parametrize(
    ("score", "window", "feeding", "hoisted"),
    [
        ("general", None, True, 1),
        ("dot", None, False, 0),  # its keys are the memory itself
        ("concat", None, True, 1),
        ("general", 1.5, True, 1),
        ("concat", 1.5, False, 1),
    ],
)
def test_every_engine_runs_the_standard_operators_it_exports_to_before_and_after_hoisting(
    score, window, feeding, hoisted
):
    program = export(seq2seq.source(small(score=score, window=window, feeding=feeding)))
    agrees_on_every_engine(program)
    rewritten = stage.rewrite(program, oracle)
    agrees_on_every_engine(rewritten)
    rules = {record["rule"]: record for record in rewritten.history[-1].notes["rules"]}
    assert not [name for name, record in rules.items() if "undone" in record]
    assert rules["hoist_keys"]["count"] == hoisted
    assert ("step.memory_keys" in rewritten.wiring.feeds) == bool(hoisted)
