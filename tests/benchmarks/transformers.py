"""What the rewrite does for transformers: each model as exported and rewritten, on each engine, in the same rounds.

Two layers of BERT base's width over 64 positions, GPT-2's over a prompt and 16 steps with its cache, ViT-Ti at 224 x
224, and two of ``torch.nn.TransformerEncoderLayer``, all in opset 20 and untrained: latency does not depend on weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from edgeattn import decode, export, models, registry
from edgeattn.backends import Options, oracle
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Program, TensorSpec
from edgeattn.rewrite import rewrite

Calls = dict[str, Callable[[], object]]
OPSET, TOKENS, STEPS = 20, 1000, 16
WIDE = {"vocabulary": TOKENS, "longest": 128, "width": 768, "layers": 2, "heads": 12}


def _bert() -> tuple[Source, Case]:
    family, _ = models.find("bert_base")
    source = family.source(family.build(**WIDE).eval())
    src = np.random.default_rng(0).integers(0, TOKENS, (1, 64))
    return source, Case("64 positions", {"src": src, "src_mask": np.ones(src.shape, bool)})


def _gpt() -> tuple[Source, Case]:
    family, _ = models.find("gpt2_small")
    source = family.source(family.build(**WIDE, max_steps=STEPS).eval())
    assert source.cases is not None
    drawn = next(c for c in source.cases(0) if c.tokens is not None and c.tokens.shape[1] > 1)
    tokens = np.random.default_rng(0).integers(0, TOKENS, (1, STEPS))
    return source, Case("16 steps", {name: array[:1] for name, array in drawn.feeds.items()}, tokens)


def _vit() -> tuple[Source, Case]:
    family, config = models.find("vit_tiny")
    source = family.source(family.build(**config.options).eval())
    (spec,) = source.graphs["main"].inputs
    image = np.random.default_rng(0).standard_normal((1, *spec.shape[1:]), np.float32)
    return source, Case("one image", {spec.name: image})


def _torch_encoder() -> tuple[Source, Case]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(512, 8, 2048, activation="gelu", batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    spec = TensorSpec("x", "float32", ("batch", "positions", 512))
    rng = np.random.default_rng(0)
    case = Case("64 positions", {"x": rng.standard_normal((1, 64, 512), np.float32)})
    return Source({"main": GraphSource(module, (spec,), ("y",))}), case


MODELS: Mapping[str, Callable[[], tuple[Source, Case]]] = {
    "bert": _bert,
    "gpt": _gpt,
    "vit": _vit,
    "torch-encoder": _torch_encoder,
}


def comparisons(threads: int) -> Iterator[tuple[str, Calls]]:
    """Each model as exported, and rewritten without measured rules, on each engine."""
    for model, make in MODELS.items():
        source, case = make()
        exported = export.export(source, opset=OPSET)
        rewritten = rewrite(exported, oracle)
        for engine in ("onnxruntime", "openvino"):
            yield (
                f"{model} on {engine}",
                {
                    "as exported": _call(engine, exported, case, threads),
                    "rewritten": _call(engine, rewritten, case, threads),
                },
            )


def _call(engine: str, program: Program, case: Case, threads: int) -> Callable[[], object]:
    backend, options = registry.get("backends", engine), Options("cpu", "fp32", threads)
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)
