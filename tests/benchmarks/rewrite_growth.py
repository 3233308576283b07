"""How time and memory of the rewrite stage grow with the graph: ``python -m tests.benchmarks.rewrite_growth``.

Four families of graphs, each at 1,000, 10,000 and 50,000 nodes: chains of attention gates on small maps, transformer
blocks, a chain that no rule matches, and shape arithmetic as exporters write it for dynamic sizes. Every row is a fresh
process on one thread, so that its peak memory is its own; what importing the packages takes is subtracted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

SIZES = (1_000, 10_000, 50_000)
HEADS = ("family", "nodes", "after", "seconds", "of CPU", "peak MB", "model MB", "rules that fired")
TABLE = "{:<12} {:>7} {:>7} {:>8} {:>7} {:>8} {:>9}  {}"
BATCH, CHANNELS, SIDE = "batch", 8, 6
HEADS, WIDTH, LENGTH = 2, 16, 5


class Chain:
    """A graph that grows block by block; every block reads the last block's value."""

    def __init__(self, shape: list[int | str], seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value, self._shape, self._rng = "x", shape, np.random.default_rng(seed)

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n{len(self.nodes)}", **attributes))
        return name

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        return self.const((scale * self._rng.standard_normal(shape)).astype(np.float32))

    def const(self, array: np.ndarray | list[int]) -> str:
        name = f"c{len(self.constants)}"
        found = np.asarray(array, np.int64 if isinstance(array, list) else None)
        self.constants.append(numpy_helper.from_array(found, name))
        return name

    def model(self) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity" if self.value == "x" else "Tanh", [self.value], ["y"], "last"))
        specs = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", self._shape), ("y", None))]
        specs[1].type.tensor_type.shape.CopyFrom(specs[0].type.tensor_type.shape)
        graph = helper.make_graph(self.nodes, "chain", specs[:1], specs[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def gates(nodes: int) -> onnx.ModelProto:
    """SE with an MLP of Linears and a CBAM, in turns, as PyTorch's exporter spells them."""
    chain = Chain([BATCH, CHANNELS, SIDE, SIDE])
    while len(chain.nodes) < nodes:
        _squeeze_excite(chain)
        _cbam(chain)
    return chain.model()


def _squeeze_excite(c: Chain) -> None:
    x = c.value
    pooled = c.op("GlobalAveragePool", x)
    flat = c.op("Flatten", pooled, axis=1)
    hidden = c.op("Relu", c.op("Gemm", flat, c.weight(CHANNELS, 4), c.weight(4)))
    gate = c.op("Sigmoid", c.op("Gemm", hidden, c.weight(4, CHANNELS), c.weight(CHANNELS)))
    size = c.op("Concat", c.op("Shape", gate), c.const([1, 1]), axis=0)
    wide = c.op("Expand", c.op("Reshape", gate, size), c.op("Shape", x))
    c.value = c.op("Tanh", c.op("Add", x, c.op("Mul", x, wide)))


def _cbam(c: Chain) -> None:
    x = c.value
    w1, b1, w2, b2 = c.weight(4, CHANNELS, 1, 1), c.weight(4), c.weight(CHANNELS, 4, 1, 1), c.weight(CHANNELS)
    pools = c.op("GlobalAveragePool", x), c.op("MaxPool", x, kernel_shape=[SIDE, SIDE])
    a, m = (c.op("Conv", c.op("Relu", c.op("Conv", pool, w1, b1)), w2, b2) for pool in pools)
    x2 = c.op("Mul", x, c.op("Sigmoid", c.op("Add", a, m)))
    mean, most = (
        c.op("Unsqueeze", c.op(f"Reduce{r}", x2, c.const([1]), keepdims=0), c.const([1])) for r in ("Mean", "Max")
    )
    both = c.op("Concat", mean, most, axis=1)
    gate = c.op("Sigmoid", c.op("Conv", both, c.weight(1, 2, 3, 3), pads=[1, 1, 1, 1]))
    c.value = c.op("Tanh", c.op("Add", x, c.op("Mul", x2, gate)))


def transformer(nodes: int) -> onnx.ModelProto:
    """Pre-norm encoder blocks with LayerNorm, GELU and scaled dot-product attention decomposed."""
    chain = Chain([BATCH, LENGTH, WIDTH])
    while len(chain.nodes) < nodes:
        _attention(chain)
        _mlp(chain)
    return chain.model()


def _norm(c: Chain, x: str) -> str:
    centred = c.op("Sub", x, c.op("ReduceMean", x, c.const([-1])))
    variance = c.op("ReduceMean", c.op("Pow", centred, c.const(np.float32(2))), c.const([-1]))
    scale = c.op("Sqrt", c.op("Add", variance, c.const(np.float32(1e-5))))
    return c.op("Add", c.op("Mul", c.op("Div", centred, scale), c.weight(WIDTH)), c.weight(WIDTH))


def _attention(c: Chain) -> None:
    x, inner = c.value, WIDTH // HEADS
    n = _norm(c, x)
    split, order = c.const([0, LENGTH, HEADS, inner]), [0, 2, 1, 3]
    q, k, v = (
        c.op("Reshape", c.op("Add", c.op("MatMul", n, c.weight(WIDTH, WIDTH)), c.weight(WIDTH)), split) for _ in "qkv"
    )
    q, v = (c.op("Transpose", p, perm=order) for p in (q, v))
    scores = c.op("MatMul", q, c.op("Transpose", k, perm=[0, 2, 3, 1]))
    weights = c.op("Softmax", c.op("Div", scores, c.const(np.float32(inner**0.5))), axis=-1)
    context = c.op("Transpose", c.op("MatMul", weights, v), perm=order)
    flat = c.op("Reshape", context, c.const([0, LENGTH, WIDTH]))
    c.value = c.op("Add", x, c.op("Add", c.op("MatMul", flat, c.weight(WIDTH, WIDTH, scale=0.02)), c.weight(WIDTH)))


def _mlp(c: Chain) -> None:
    x = c.value
    hidden = c.op("Add", c.op("MatMul", _norm(c, x), c.weight(WIDTH, 2 * WIDTH)), c.weight(2 * WIDTH))
    erf = c.op("Erf", c.op("Div", hidden, c.const(np.float32(2**0.5))))
    gelu = c.op("Mul", c.op("Mul", hidden, c.op("Add", erf, c.const(np.float32(1)))), c.const(np.float32(0.5)))
    out = c.op("Add", c.op("MatMul", gelu, c.weight(2 * WIDTH, WIDTH, scale=0.02)), c.weight(WIDTH))
    c.value = c.op("Tanh", c.op("Add", x, out))


def plain(nodes: int) -> onnx.ModelProto:
    """Convolutions and elementwise operators that no rule has anything to say about."""
    chain = Chain([BATCH, CHANNELS, SIDE, SIDE])
    while len(chain.nodes) < nodes:
        x = chain.value
        y = chain.op("Relu", chain.op("Conv", x, chain.weight(CHANNELS, CHANNELS, 3, 3), pads=[1, 1, 1, 1]))
        chain.value = chain.op("Tanh", chain.op("Add", chain.op("Mul", y, chain.weight(CHANNELS, 1, 1)), x))
    return chain.model()


def shapes(nodes: int) -> onnx.ModelProto:
    """Sizes computed from sizes: strided maps broadcast back over a dynamic height and width."""
    chain = Chain([BATCH, CHANNELS, "height", "width"])
    one, two = chain.const([1]), chain.const([2])
    while len(chain.nodes) < nodes:
        _arithmetic(chain, one, two)
    return chain.model()


def _arithmetic(c: Chain, one: str, two: str) -> None:
    x = c.value
    small = c.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    gate = c.op("GlobalAveragePool", small)
    sizes = [c.op("Shape", x, start=i, end=i + 1) for i in range(4)]
    halves = [c.op("Add", c.op("Div", c.op("Sub", s, one), two), one) for s in sizes[2:]]
    wide = c.op("Expand", gate, c.op("Concat", *sizes[:2], *halves, axis=0))
    pooled = c.op("GlobalMaxPool", c.op("Mul", small, wide))
    whole = c.op("Expand", pooled, c.op("Concat", *sizes, axis=0))
    c.value = c.op("Tanh", c.op("Add", x, whole))


FAMILIES: dict[str, Callable[[int], onnx.ModelProto]] = {
    "gates": gates,
    "transformer": transformer,
    "plain": plain,
    "shapes": shapes,
}


def measure(family: str, nodes: int) -> dict[str, Any]:
    """One rewrite with every rule: nodes before and after, seconds, peak memory above the imports in MB."""
    from edgeattn import backends, rewrite, storage
    from edgeattn.program import Program

    warm = storage.with_reference(Program({"main": gates(8)}), backends.oracle)
    rewrite.rewrite(warm, backends.oracle)  # imports engines, rules and the folders they use
    before = _peak_mb()
    model = FAMILIES[family](nodes)
    program = storage.with_reference(Program({"main": model}), backends.oracle)
    started, busy = time.perf_counter(), time.process_time()
    result = rewrite.rewrite(program, backends.oracle)
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    return {
        "family": family,
        "nodes": len(model.graph.node),
        "after": len(result.graphs["main"].graph.node),
        "seconds": round(seconds, 2),
        "cpu": round(cpu, 2),
        "peak_mb": round(_peak_mb() - before),
        "model_mb": round(model.ByteSize() / 2**20, 1),
        "rules": [r["rule"] for r in result.history[-1].notes["rules"] if r["count"]],
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows(families: list[str], sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Every measurement, each in a process of its own."""
    for family in families:
        for nodes in sizes:
            command = [sys.executable, "-m", "tests.benchmarks.rewrite_growth", "--row", family, str(nodes)]
            yield json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table nodes x seconds x peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", nargs=2, metavar=("FAMILY", "NODES"), help="measure one row and print it as JSON")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    given = parser.parse_args()
    if given.row:
        sys.stdout.write(json.dumps(measure(given.row[0], int(given.row[1]))))
        return
    say(TABLE.format(*HEADS))
    for row in rows(given.families, given.sizes):
        row["rules"] = ", ".join(row["rules"])
        say(TABLE.format(*row.values()))


if __name__ == "__main__":
    main()
