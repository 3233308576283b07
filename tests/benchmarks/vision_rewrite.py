"""What the rewrite does for CBAM-ResNet-50 in FP32: as exported and rewritten, on each engine, in the same rounds.

The reference model by PyTorch's newer exporter, and the same network with a CBAM as others write it by the older one,
both at 224 x 224, batch 1, with a dynamic batch. "For the target" is with the measured rules that were faster on it;
what was measured and kept is on stderr.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from torch import nn

from edgeattn import choose, decode, export, registry, source
from edgeattn.backends import Options, oracle
from edgeattn.models.resnet import Residual, ResNet
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite import rewrite

Calls = dict[str, Callable[[], object]]
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
CASE = Case("one image", {"image": IMAGE})


class WidelyUsed(nn.Module):
    """CBAM as most repositories have it: two 1×1 convolutions without bias, the mean first in the concatenation."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)
        self.mean, self.peak, self.relu = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.ReLU()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, peak = (self.fc2(self.relu(self.fc1(pool(x)))) for pool in (self.mean, self.peak))
        x = torch.sigmoid(mean + peak) * x
        top, _ = torch.max(x, dim=1, keepdim=True)
        both = torch.cat([torch.mean(x, dim=1, keepdim=True), top], dim=1)
        return torch.sigmoid(self.conv(both)) * x


def reference_model() -> Program:
    return export.export(source.resolve("cbam_resnet50").source)


def widely_used() -> Program:
    """The same ResNet-50 around the CBAM of others, by TorchScript."""
    torch.manual_seed(0)
    net = ResNet().eval()
    for block in net.blocks:
        assert isinstance(block, Residual)
        block.attention = WidelyUsed(block.branch[-1].num_features)
    net.eval()
    file, image = io.BytesIO(), torch.from_numpy(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter says that it is old
        torch.onnx.export(
            net, (image,), file, dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip
    with torch.no_grad():
        cases = tuple(Case(f"batch-{len(x)}", {"image": x.numpy()}) for x in (image, torch.randn(2, 3, 224, 224)))
    return Program({"main": onnx.load_from_string(file.getvalue())}, reference=Reference("source graph", cases))


MODELS: dict[str, Callable[[], Program]] = {
    "CBAM-ResNet-50 by dynamo": reference_model,
    "ResNet-50 with a widely used CBAM by TorchScript": widely_used,
}


def comparisons(threads: int) -> Iterator[tuple[str, Calls]]:
    """One comparison for each model and engine."""
    for title, make in MODELS.items():
        exported = make()
        plain = rewrite(exported, oracle)
        for engine in ("onnxruntime", "openvino"):
            options = Options("cpu", "fp32", threads)
            chosen = rewrite(exported, oracle, chooser=choose.by_latency(engine, options))
            _tell(f"{title}, {engine}", chosen)
            programs = {"as exported": exported, "rewritten": plain, "rewritten for the target": chosen}
            yield f"{title}, {engine}", {name: _call(engine, options, p) for name, p in programs.items()}


def _call(engine: str, options: Options, program: Program) -> Callable[[], object]:
    backend = registry.get("backends", engine)
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    return lambda: decode.run(sessions, program.wiring, CASE.feeds, None)


def _tell(title: str, program: Program) -> None:
    for record in program.history[-1].notes["rules"]:
        if "measured" in record:
            sys.stderr.write(f"{title}: {record['rule']}: {record['note']}\n")
