"""What commands cost on a model of many bytes: ``python -m tests.benchmarks.heavy [--layers 30] [--width 4608]``.

Writes a network of wide MatMuls with layer normalisation and a channel gate between them (its weights in one file with
the graph while that fits, else beside it), runs every command on it, and prints seconds and peak memory as a multiple
of the model. Peak memory is the largest resident set of the command less that of the same command on a tiny model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

ONE_FILE = 1 << 31


def write(path: Path, layers: int, width: int, outside: bool | None = None) -> int:
    """A chain of ``layers`` blocks of ``width`` features at ``path``; its size in bytes, data included.

    Args:
        path: the .onnx file. layers, width: 4 · layers · width² bytes of weights.
        outside: weights in ``<path>.data``; by default where they do not fit into one file.
    """
    apart = outside if outside is not None else 4 * layers * width * width > ONE_FILE - (1 << 24)
    rng = np.random.default_rng(0)
    nodes, constants = list(_nodes(layers, width)), list(_constants(layers, width, rng))
    specs = [helper.make_tensor_value_info(name, 1, ["batch", 6, width]) for name in ("x", "y")]
    data = path.with_name(f"{path.name}.data")
    with open(data if apart else os.devnull, "wb") as file:
        for i in range(layers):
            weight = (rng.standard_normal((width, width), np.float32) / np.float32(width**0.5)).astype(np.float32)
            tensor = numpy_helper.from_array(weight, f"w{i}")
            if apart:
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                for key, value in (("location", data.name), ("offset", file.tell()), ("length", weight.nbytes)):
                    tensor.external_data.add(key=key, value=str(value))
                file.write(weight.tobytes())
            constants.append(tensor)
    graph = helper.make_graph(nodes, "heavy", specs[:1], specs[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path.stat().st_size + (data.stat().st_size if apart else 0)


def _nodes(layers: int, width: int) -> Iterator[onnx.NodeProto]:
    value = "x"
    for i in range(layers):
        lines = [
            ("ReduceMean", [value, "last"], "mean"), ("Sub", [value, f"mean{i}"], "centred"),
            ("Pow", [f"centred{i}", "two"], "square"), ("ReduceMean", [f"square{i}", "last"], "variance"),
            ("Add", [f"variance{i}", "epsilon"], "padded"), ("Sqrt", [f"padded{i}"], "deviation"),
            ("Div", [f"centred{i}", f"deviation{i}"], "normal"), ("Mul", [f"normal{i}", f"scale{i}"], "scaled"),
            ("Add", [f"scaled{i}", f"shift{i}"], "norm"), ("MatMul", [f"norm{i}", f"w{i}"], "product"),
            ("Sigmoid", [f"product{i}"], "gate"), ("Shape", [value], "size"),
            ("Expand", [f"gate{i}", f"size{i}"], "wide"), ("Mul", [value, f"wide{i}"], "out"),
        ]  # fmt: skip
        for op, inputs, output in lines:
            yield helper.make_node(op, inputs, [f"{output}{i}"], f"{op}_{i}_{output}")
        value = f"out{i}"
    yield helper.make_node("Identity", [value], ["same"], "same")
    yield helper.make_node("Tanh", ["same"], ["y"], "tanh")


def _constants(layers: int, width: int, rng: np.random.Generator) -> Iterator[onnx.TensorProto]:
    yield numpy_helper.from_array(np.array([-1], np.int64), "last")
    yield numpy_helper.from_array(np.float32(2), "two")
    yield numpy_helper.from_array(np.float32(1e-5), "epsilon")
    for i in range(layers):
        yield numpy_helper.from_array(1 + 0.1 * rng.standard_normal(width).astype(np.float32), f"scale{i}")
        yield numpy_helper.from_array(0.1 * rng.standard_normal(width).astype(np.float32), f"shift{i}")


def command(*words: str | Path) -> tuple[float, int, int]:
    """Seconds, peak resident bytes and exit code of ``edgeattn WORDS``, children included."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "edgeattn", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - started, usage.ru_maxrss << 10, os.waitstatus_to_exitcode(status)


def main() -> None:
    """Print the table command x seconds x peak memory / model size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--width", type=int, default=4608)
    parser.add_argument("--folder", type=Path, help="keep the models here; by default they go away again")
    parser.add_argument(
        "--only", nargs="*", default=["rewrite", "inspect", "recognise", "why-not", "parity", "compile"]
    )
    parser.add_argument("--write", nargs=3, metavar=("PATH", "LAYERS", "WIDTH"), help="write one model and end")
    given = parser.parse_args()
    if given.write:
        write(Path(given.write[0]), *map(int, given.write[1:]))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        for name, width in (("heavy", given.width), ("tiny", 16)):  # elsewhere: a child begins with its parent's peak
            words = [folder / f"{name}.onnx", given.layers, width]
            subprocess.run([sys.executable, "-m", "tests.benchmarks.heavy", "--write", *map(str, words)], check=True)
        size = sum(file.stat().st_size for file in folder.glob("heavy.onnx*"))
        sys.stdout.write(f"{size / 2**30:.2f} GiB, {14 * given.layers + 2} nodes\n")
        for name in given.only:
            seconds, peaks = [], []
            for model in ("tiny", "heavy"):
                took, peak, code = command(*_words(name, folder, model))
                seconds.append(took)
                peaks.append(peak)
                if code:
                    sys.stdout.write(f"{name} on {model}: exit {code}\n")
            ratio = (peaks[1] - peaks[0]) / size
            sys.stdout.write(f"{name:<10} {seconds[1]:7.1f} s   {ratio:5.2f} x the model (tiny: {seconds[0]:.1f} s)\n")
            sys.stdout.flush()


def _words(name: str, folder: Path, model: str) -> list[str | Path]:
    source, out = folder / f"{model}.onnx", folder / f"{model}-{name}"
    rewritten = folder / f"{model}-rewrite.onnx"
    return {
        "rewrite": ["rewrite", source, "-o", rewritten],
        "why-not": ["why-not", "remove_expand", source],
        "parity": ["parity", source, rewritten, "--precision", "rewrite"],
        "compile": ["compile", source, "-o", out, "--target", "onnxruntime"],
    }.get(name, [name, source])


if __name__ == "__main__":
    main()
