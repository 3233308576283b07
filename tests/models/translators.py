"""What the tests of the recurrent translators share: running them, and the plain pieces of their equations."""

from __future__ import annotations

import numpy as np

from edgeattn import decode, registry
from edgeattn.backends import Options
from edgeattn.export import eager_sessions
from edgeattn.harness import parity
from edgeattn.harness.limits import Limits
from edgeattn.models._translator import source

ENGINES = ("onnxruntime", "openvino")


def decoded(net, feeds, tokens=None):
    """Step outputs of the wired graphs in eager PyTorch."""
    wired = source(net)
    return decode.run(eager_sessions(wired), wired.wiring, feeds, tokens)


def agrees_on_every_engine(program):
    """Standard operators only, and eager PyTorch's outputs in FP32 on every case: lengths, batches, masked rows."""
    assert {node.domain for graph in program.graphs.values() for node in graph.graph.node} == {""}
    for engine in ENGINES:
        backend = registry.get("backends", engine)
        sessions = {name: backend.load(graph, Options("cpu", threads=1)) for name, graph in program.graphs.items()}
        found = parity.judge(
            engine,
            lambda case, s=sessions: decode.run(s, program.wiring, case.feeds, case.tokens),
            program.reference.cases,
            Limits.of("fp32"),
        )
        assert {name: output.verdict for name, output in found.outputs.items()} == dict.fromkeys(found.outputs, "pass")


def drawn(seed, lengths, padding, tokens, vocabularies):
    """A ragged source with so many positions of padding after the longest row, and forced tokens."""
    rng, longest = np.random.default_rng(seed), max(*lengths, 1) + padding
    src = rng.integers(0, vocabularies[0], (len(lengths), longest))
    mask = np.arange(longest) < np.array(lengths)[:, None]
    return {"src": src, "src_mask": mask}, rng.integers(0, vocabularies[1], (len(lengths), tokens))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def parameters(net):
    """The parameters in float64, by name."""
    return {name: value.double().numpy() for name, value in net.state_dict().items()}
