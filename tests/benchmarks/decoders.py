"""Decoder steps before and after rewriting, FP32, batch 1: what one step of a translator costs on an engine.

A step is timed alone, on what the encoder of its own program hands it; *before* is the step as it was exported, with
the keys projected inside. The sizes: 2xLSTM-512 (Luong) and a GRU-512 (Bahdanau) with
vocabulary 8,000, and the tutorial's GRU-64. ``torchscript`` is the same Luong model through PyTorch's older exporter.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx

from edgeattn import choose, export, registry, source
from edgeattn.backends import Options, oracle
from edgeattn.models import Source
from edgeattn.program import Program, Session, Wiring
from edgeattn.rewrite import rewrite

BAHDANAU = {
    "source_vocabulary": 8000, "target_vocabulary": 8000, "embedding": 256, "width": 512, "maxout": 256,
    "max_source": 50,
}  # fmt: skip
SOURCES = (30, 200)


def step_calls(threads: int, engines: tuple[str, ...] = ("onnxruntime", "openvino")) -> Iterator[tuple[str, dict]]:
    """(title, calls) of one comparison after another: before first, then after."""
    for name, net, exporter in _translators():
        program = export.export(net) if exporter == "dynamo" else _torchscript(net)
        for engine in engines:
            options = Options("cpu", "fp32", threads)
            chooser = choose.by_latency(engine.replace("-", "_"), options)
            plain = rewrite(program, oracle)
            for length in SOURCES if name != "tutorial" else (8,):
                calls = {"as exported": step(engine, options, program, length)}
                calls["rewritten"] = step(engine, options, plain, length)
                measured = rewrite(_sized(program, length), oracle, chooser=chooser)
                calls["rewritten, measured rules too"] = step(engine, options, measured, length)
                yield f"{name} by {exporter}, {engine}, source {length}", calls


def step(engine: str, options: Options, program: Program, length: int) -> Callable[[], object]:
    """One decoder step on what the encoder gives for a source of some length, called as the decode loop calls it.

    The loop is asked for the logits and the attention weights: states are left in an engine that keeps them.
    """
    backend = registry.get("backends", engine)
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    wiring = program.wiring
    assert wiring is not None
    loop, feeds = sessions[wiring.loop], handed(sessions, wiring, length)
    links = {to.split(".")[1]: origin.split(".")[1] for to, origin in wiring.state.items()}
    fixed = frozenset(feeds.keys() - links.keys() - {wiring.stop.token.split(".")[1]})
    read = frozenset(spec.name for spec in loop.outputs) - frozenset(links.values())
    held = loop.hold(links, fixed, read) if hasattr(loop, "hold") else loop
    return lambda: held.run(feeds)


def handed(sessions: Mapping[str, Session], wiring: Wiring, length: int) -> dict[str, np.ndarray]:
    """What one decoder step is fed after the encoder has read a source of some length."""
    src = np.random.default_rng(0).integers(3, 10, (1, length))
    given = {"src": src, "src_mask": np.ones(src.shape, bool)}
    encoder, loop = sessions["encoder"], sessions[wiring.loop]
    memory = encoder.run({s.name: given[s.name] for s in encoder.inputs})
    feeds = {s.name: given[s.name] for s in loop.inputs if s.name in given}
    feeds[wiring.stop.token.split(".")[1]] = np.array([5])
    feeds |= {to.split(".")[1]: memory[origin.split(".")[1]] for to, origin in wiring.feeds.items()}
    for spec in loop.inputs:
        if spec.name not in feeds:
            feeds[spec.name] = np.zeros([1 if isinstance(d, str) else d for d in spec.shape], spec.dtype)
    return feeds


def _translators() -> Iterator[tuple[str, Source, str]]:
    luong = source.resolve("luong_2x512").source
    yield "Luong 2xLSTM-512", luong, "dynamo"
    family = registry.get("models", "rnnsearch")
    yield "Bahdanau GRU-512", family.source(family.build(**BAHDANAU).eval()), "dynamo"
    yield "Luong 2xLSTM-512", luong, "torchscript"
    yield "tutorial", source.resolve("examples/tutorial_seq2seq.py:translator").source, "dynamo"


def _sized(program: Program, length: int) -> Program:
    """The program judged and timed on a source of the length that it is measured at."""
    assert program.reference is not None
    src = np.random.default_rng(0).integers(3, 10, (1, length))
    first = program.reference.cases[0]
    known = {"src": src, "src_mask": np.ones(src.shape, bool)}
    case = replace(
        first, name="real", feeds={k: known[k] for k in first.feeds}, tokens=np.full((1, length), 5), outputs={}
    )
    return replace(program, reference=replace(program.reference, cases=(case,)))


def _torchscript(net: Source) -> Program:
    """The two graphs through ``torch.onnx.export(dynamo=False)``, judged by the same cases."""
    import torch

    program = export.export(net)
    assert program.reference is not None
    graphs = {}
    for name, graph in net.graphs.items():
        file = io.BytesIO()
        args = tuple(
            torch.zeros([3 if isinstance(d, str) else d for d in s.shape], dtype=getattr(torch, s.dtype))
            for s in graph.inputs
        )
        axes = {s.name: {i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in graph.inputs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old exporter's own deprecation
            torch.onnx.export(
                graph.module.eval(), args, file, dynamo=False, opset_version=17, dynamic_axes=axes,
                input_names=list(axes), output_names=list(graph.outputs),
            )  # fmt: skip
        model = onnx.load_from_string(file.getvalue())
        del model.graph.output[:]
        model.graph.output.extend(program.graphs[name].graph.output)  # the old exporter forgets the sizes
        graphs[name] = model
    return replace(program, graphs=graphs)
