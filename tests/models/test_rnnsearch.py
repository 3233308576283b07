import numpy as np
import pytest
import torch

from edgeattn import models
from edgeattn import rewrite as stage
from edgeattn.backends import oracle
from edgeattn.export import export
from edgeattn.models import rnnsearch
from edgeattn.models._translator import cases
from edgeattn.tasks import numbers, words
from tests.models.translators import agrees_on_every_engine, decoded, drawn, parameters, sigmoid, softmax

pytestmark = pytest.mark.torch

SMALL = {
    "source_vocabulary": 11, "target_vocabulary": 9, "embedding": 6, "width": 8, "maxout": 5, "alignment": 7,
    "max_source": 9,
}  # fmt: skip


def small(**options):
    return rnnsearch.RNNsearch(**{**SMALL, **options}).eval()


def gru(rows, p, name):
    """States of a PyTorch GRU over the rows of one text: its z keeps the old state, so it is 1 − z of the paper."""
    w_ih, w_hh, b_ih, b_hh = (
        p[f"encoder.{name}.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, states = np.zeros(w_hh.shape[1]), []
    for x in rows:
        (r, z, n), (ur, uz, un) = np.split(w_ih @ x + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        keep = sigmoid(z + uz)
        h = (1 - keep) * np.tanh(n + sigmoid(r + ur) * un) + keep * h
        states.append(h)
    return np.array(states)


def numpy_encoder(p, src):
    """Annotations (S, 2n) and s_0 (n) of one text without padding, A.2.1 and A.2.2."""
    embedded = p["encoder.embed.weight"][src]
    ahead, back = gru(embedded, p, "ahead"), gru(embedded[::-1], p, "back")[::-1]
    s = np.tanh(p["encoder.start.weight"] @ back[0] + p["encoder.start.bias"])
    return np.concatenate((ahead, back), 1), s


def numpy_decoder(p, annotations, s, tokens):
    """Logits (T, V), weights (T, S) and states (T, n) of one text, A.1.2 and A.2.2."""
    n = len(s)
    w_z, w_r = np.split(p["step.gates_in.weight"], 2)
    u_z, u_r = np.split(p["step.gates.weight"], 2)
    b_z, b_r = np.split(p["step.gates_in.bias"], 2)
    steps = []
    for token in tokens:
        energies = [
            p["step.attention.v.weight"][0]
            @ np.tanh(p["step.attention.query.weight"] @ s + p["step.attention.project.weight"] @ h)
            for h in annotations
        ]
        alpha = softmax(np.array(energies))
        context = sum(a * h for a, h in zip(alpha, annotations, strict=True))
        read = np.concatenate((p["step.embed.weight"][token], context))
        z, r = sigmoid(w_z @ read + u_z @ s + b_z), sigmoid(w_r @ read + u_r @ s + b_r)
        inner = p["step.candidate_in.weight"] @ read + p["step.candidate_in.bias"]
        proposal = np.tanh(inner + p["step.candidate.weight"] @ (r * s))
        u_o, vc_o = p["step.readout.weight"][:, :n], p["step.readout.weight"][:, n:]
        t = u_o @ s + vc_o @ read + p["step.readout.bias"]
        maxout = np.maximum(t[0::2], t[1::2])
        s = (1 - z) * s + z * proposal
        steps.append((p["step.output.weight"] @ maxout + p["step.output.bias"], alpha, s))
    return tuple(map(np.array, zip(*steps, strict=True)))


@pytest.mark.parametrize(
    "options", [{}, {"embedding": 3, "width": 4, "maxout": 6, "alignment": 13}, {"alignment": None}]
)
@pytest.mark.parametrize(("lengths", "padding"), [([6], 0), ([5, 6], 1), ([1, 9, 4], 3)])
def test_equals_the_papers_equations_in_float64(options, lengths, padding):
    net = small(**options).double()
    feeds, tokens = drawn(len(lengths), lengths, padding, 4, (11, 9))
    mask, p = torch.from_numpy(feeds["src_mask"]), parameters(net)
    memory, s = net.encoder(torch.from_numpy(feeds["src"]), mask)
    steps = []
    for token in torch.from_numpy(tokens).unbind(1):
        logits, alpha, s_next = net.step(token, memory, mask, s if not steps else steps[-1][2])
        steps.append((logits, alpha, s_next))
    actual = [torch.stack(values, 1).detach().numpy() for values in zip(*steps, strict=True)]
    for row, length in enumerate(lengths):
        annotations, s_0 = numpy_encoder(p, feeds["src"][row, :length])
        logits, alpha, states = numpy_decoder(p, annotations, s_0, tokens[row])
        # float64 on both sides: only the order of sums differs
        close = {"rtol": 1e-10, "atol": 1e-13}
        np.testing.assert_allclose(memory[row, :length].detach(), annotations, **close)
        np.testing.assert_allclose(s[row].detach(), s_0, **close)
        np.testing.assert_allclose(actual[0][row], logits, **close)
        np.testing.assert_allclose(actual[1][row, :, :length], alpha, **close)
        np.testing.assert_allclose(actual[2][row], states, **close)
        assert not actual[1][row, :, length:].any()


def test_the_backward_reader_reads_each_row_from_its_own_end():
    net = small()
    net.encoder.back.load_state_dict(net.encoder.ahead.state_dict())
    text, mask = torch.tensor([[3, 1, 4, 1, 5]]), torch.ones(1, 5, dtype=torch.bool)
    padded, ragged = torch.nn.functional.pad(text, (0, 3), value=7), torch.arange(8).unsqueeze(0) < 5
    ahead = net.encoder(text.flip(1), mask)[0][0, :, :8]
    back = net.encoder(padded, ragged)[0][0, :5, 8:]
    # the same GRU over the same five tokens; float32, another length of the whole batch
    torch.testing.assert_close(back.flip(0), ahead, rtol=1e-5, atol=1e-6)


def test_the_alignment_is_that_of_the_previous_state_whatever_the_token():
    net = small()
    feeds, _ = drawn(0, [5], 0, 1, (11, 9))
    first, other = (decoded(net, feeds, np.array([[token, 3]])) for token in (2, 4))
    assert np.array_equal(first["alignment"][0], other["alignment"][0])
    assert not np.array_equal(first["alignment"][1], other["alignment"][1])


def test_the_training_forward_and_the_wired_graphs_agree():
    net = small()
    for case in cases(net, seed=1):
        stepwise = decoded(net, case.feeds, case.tokens)["logits"].swapaxes(0, 1)
        whole = net(*(torch.from_numpy(v) for v in (case.feeds["src"], case.feeds["src_mask"], case.tokens)))
        # float32; the training path projects the keys once, in a larger product
        np.testing.assert_allclose(stepwise, whole.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [1, 7, 30])
def test_what_follows_as_padding_changes_nothing(padding):
    net, rng = small(), np.random.default_rng(0)
    feeds, tokens = drawn(0, [5, 3, 0], 0, 4, (11, 9))
    longer = {
        "src": np.concatenate((feeds["src"], rng.integers(0, 11, (3, padding))), 1),
        "src_mask": np.pad(feeds["src_mask"], ((0, 0), (0, padding))),
    }
    plain, padded = decoded(net, feeds, tokens), decoded(net, longer, tokens)
    for name in ("logits", "s_out"):
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


def test_the_papers_size_has_the_papers_parameters():
    words, m, n, l = 30_000, 620, 1000, 500  # A.2.3
    encoder = words * m + 2 * 3 * (n * m + n * n + 2 * n) + n * n + n  # PyTorch's GRU has two biases a gate
    alignment = n * n + n * 2 * n + n
    decoder = words * m + 3 * (n * (m + 2 * n) + n * n + n)
    readout = 2 * l * (n + m + 2 * n) + 2 * l + words * l + words
    family, config = models.find("bahdanau_1000")
    with torch.device("meta"):
        net = family.build(**config.options)
    assert sum(p.numel() for p in net.parameters()) == encoder + alignment + decoder + readout == 80_448_000


@pytest.mark.parametrize(("name", "task"), [("bahdanau_numbers", numbers), ("bahdanau_words", words)])
def test_a_trained_configuration_matches_its_tasks_vocabulary(name, task):
    options = models.find(name)[1].options
    assert options["source_vocabulary"] == len(task.SOURCE_TOKENS)
    assert options["target_vocabulary"] == len(task.TARGET_TOKENS)
    assert (options["start"], options["end"]) == (task.START, task.END)
    assert options["max_source"] == task.MAX_LENGTH
    assert options["max_steps"] > task.TARGET_LENGTH


@pytest.mark.onnxruntime
@pytest.mark.openvino
def test_every_engine_runs_the_standard_operators_it_exports_to_before_and_after_hoisting():
    program = export(rnnsearch.source(small()))
    readers = [node for node in program.graphs["encoder"].graph.node if node.op_type == "GRU"]
    assert len(readers) == 2, "each direction is one recurrent operator"
    assert all(a.i == 1 for node in readers for a in node.attribute if a.name == "linear_before_reset")
    agrees_on_every_engine(program)
    rewritten = stage.rewrite(program, oracle)
    agrees_on_every_engine(rewritten)
    rules = {record["rule"]: record for record in rewritten.history[-1].notes["rules"]}
    assert not [name for name, record in rules.items() if "undone" in record]
    assert rules["hoist_keys"]["count"] == 1
    assert rewritten.wiring.feeds["step.memory_keys"] == "encoder.memory_keys"
    assert len(products_of(rewritten, "step")) == len(products_of(program, "step")) - 1


def products_of(program, graph):
    return [n for n in program.graphs[graph].graph.node if n.op_type in ("MatMul", "Gemm")]
