import numpy as np
import onnxruntime
import pytest
import torch

from edgeattn import decode, models
from edgeattn.export import eager_sessions, export
from edgeattn.models import seq2seq
from edgeattn.tasks import dates

pytestmark = pytest.mark.torch

SMALL = {"source_vocabulary": 11, "target_vocabulary": 9, "embedding": 6, "width": 8, "layers": 2, "max_source": 9}


def small(**options):
    return seq2seq.Seq2Seq(**{**SMALL, **options}).eval()


def decoded(net, feeds, tokens=None):
    source = seq2seq.source(net)
    return decode.run(eager_sessions(source), source.wiring, feeds, tokens)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, h, c, weights):
    """One LSTM step from PyTorch's four weight arrays, gates in the order i, f, g, o."""
    w_ih, w_hh, b_ih, b_hh = weights
    i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def numpy_seq2seq(net, src, length, tokens):
    """Logits of one row from the paper's equations, float64, over the valid positions only."""
    p = {name: value.double().numpy() for name, value in net.state_dict().items()}
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
        x = np.concatenate((p["step.embed.weight"][token], feed))
        for layer in range(net.layers):
            state[layer] = lstm_step(x, *state[layer], [p[f"step.cells.{layer}.{kind}"] for kind in kinds])
            x = state[layer][0]
        scores = outputs @ p["step.attention.project.weight"].T @ x
        alpha = np.exp(scores - scores.max())
        context = (alpha / alpha.sum()) @ outputs
        feed = np.tanh(p["step.combine.weight"] @ np.concatenate((context, x)))
        logits.append(p["step.output.weight"] @ feed + p["step.output.bias"])
    return np.array(logits)


def test_equals_the_papers_equations_in_float64():
    net = small()
    src, tokens = np.array([[3, 1, 4, 1, 5, 0], [2, 7, 1, 8, 2, 8]]), np.array([[0, 4, 2, 7], [0, 5, 5, 1]])
    lengths = [5, 6]
    mask = np.arange(6) < np.array(lengths)[:, None]
    actual = net.double()(*map(torch.from_numpy, (src, mask, tokens))).detach().numpy()
    for row, length in enumerate(lengths):
        expected = numpy_seq2seq(net, src[row], length, tokens[row])
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual[row], expected, rtol=1e-11, atol=1e-13)


def test_the_training_forward_and_the_wired_graphs_agree():
    net = small()
    for case in seq2seq.cases(net, seed=1):
        stepwise = decoded(net, case.feeds, case.tokens)["logits"].swapaxes(0, 1)
        whole = net(*(torch.from_numpy(v) for v in (case.feeds["src"], case.feeds["src_mask"], case.tokens)))
        # float32; the training path projects the keys once, in a larger product
        np.testing.assert_allclose(stepwise, whole.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [1, 7, 30])
def test_what_follows_as_padding_changes_nothing(padding):
    net, rng = small(), np.random.default_rng(0)
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


def test_a_fully_masked_row_stays_finite_and_ignores_its_tokens():
    net, mask = small(), np.zeros((1, 4), bool)
    first, second = (decoded(net, {"src": np.full((1, 4), t), "src_mask": mask}, np.array([[0, 3]])) for t in (1, 2))
    assert np.isfinite(first["logits"]).all()
    assert not first["alignment"].any()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_attentional_state_is_fed_into_the_next_step():
    net = small()
    step = {
        spec.name: torch.zeros(
            [{"batch": 1, "source": 3}.get(d, d) for d in spec.shape], dtype=getattr(torch, spec.dtype)
        )
        for spec in seq2seq.source(net).graphs["step"].inputs
    }
    other = {**step, "feed": torch.ones(1, net.width)}
    assert not torch.equal(net.step(**step)[0], net.step(**other)[0])


def test_cases_cover_the_edges():
    net = small()
    cases = {case.name: case for case in seq2seq.cases(net, seed=0)}
    assert set(cases) == {
        "normal-b1", "normal-b2", "length-1", "length-max", "ragged", "masked-row", "repeated-token",
    }  # fmt: skip
    assert cases["length-max"].feeds["src"].shape == (2, net.max_source)
    assert not cases["masked-row"].feeds["src_mask"][1].any()
    assert len(np.unique(cases["repeated-token"].feeds["src"])) == 1
    assert all((case.tokens[:, 0] == net.stop.start).all() for case in cases.values())
    again = seq2seq.cases(net, seed=0)
    assert all(np.array_equal(case.tokens, cases[case.name].tokens) for case in again)


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


@pytest.mark.onnxruntime
@pytest.mark.parametrize("score", ["general", "dot"])
def test_exports_to_standard_operators_that_take_any_batch_and_length(score):
    net = small(score=score)
    program = export(seq2seq.source(net))
    assert {node.domain for graph in program.graphs.values() for node in graph.graph.node} == {""}
    rng = np.random.default_rng(3)
    for batch, length in ((1, 1), (2, 4), (3, 23)):
        feeds = {"src": rng.integers(0, 11, (batch, length)), "src_mask": np.ones((batch, length), bool)}
        expected = decoded(net, feeds, tokens := rng.integers(0, 9, (batch, 3)))
        sessions = {name: OrtSession(graph) for name, graph in program.graphs.items()}
        actual = decode.run(sessions, program.wiring, feeds, tokens)
        for name, values in expected.items():
            assert actual[name].shape == values.shape
            # float32 sums in another order, over three steps of an untrained network
            np.testing.assert_allclose(actual[name], values, rtol=1e-4, atol=1e-5)


class OrtSession:
    """ONNX Runtime behind the Session interface."""

    def __init__(self, graph):
        self._session = onnxruntime.InferenceSession(graph.SerializeToString())
        names = {value.name for value in self._session.get_inputs()}
        sources = seq2seq.source(small()).graphs.values()
        self.inputs = next(s.inputs for s in sources if {spec.name for spec in s.inputs} == names)
        self.outputs = ()

    def run(self, feeds):
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, dict(feeds)), strict=True))
