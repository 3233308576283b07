"""ONNX files that are wrong in one way each, and what must be said about them.

``CASES[name]`` is ``(make, code, said)``: ``make(folder) -> path`` writes the file and what lies beside it, ``code``
is the exit code, ``said`` a part of the one line. The same corpus serves every command that reads a model.
``ENGINE`` holds files that are well formed and fail when an engine opens or runs them, ``LETHAL`` those that kill the
process an engine runs in, ``GOOD`` what is odd and right.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Make = Callable[[Path], Path]
FLOAT = TensorProto.FLOAT


def value(name: str, shape: list[Any] | None = None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [1, 4] if shape is None else shape)


def model(
    nodes: list[onnx.NodeProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    constants: list[onnx.TensorProto] | None = None,
    opset: int = 18,
    **more: Any,
) -> onnx.ModelProto:
    """``y = MatMul(x, w)`` unless told otherwise."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])] if nodes is None else nodes
    graph = helper.make_graph(
        nodes, "g", inputs or [value("x")], [value("y")] if outputs is None else outputs,
        [weight()] if constants is None else constants,
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset)]
    built: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=8, **more)
    return built


def weight(name: str = "w", **fields: Any) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), name)
    for field, new in fields.items():
        if field == "dims":
            tensor.dims[:] = new
        else:
            setattr(tensor, field, new)
    return tensor


def saved(build: Callable[[], onnx.ModelProto | bytes]) -> Make:
    """Writes what ``build`` makes to ``model.onnx``."""

    def make(folder: Path) -> Path:
        made = build()
        path = folder / "model.onnx"
        path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        return path

    return make


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def edited(change: Callable[[onnx.ModelProto], object], **kinds: Any) -> Make:
    def build() -> onnx.ModelProto:
        made = model(**kinds)
        change(made)
        return made

    return saved(build)


# --- what is no model at all --------------------------------------------------------------------------------------


def _directory(folder: Path) -> Path:
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def _socket(folder: Path) -> Path:
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # socket paths are limited to 107 bytes
    listener.bind("model.onnx")
    os.chdir(here)
    listener.close()
    return folder / "model.onnx"


def _huge(folder: Path) -> Path:
    with (folder / "model.onnx").open("wb") as file:
        file.truncate((2 << 30) + 1)  # sparse: takes no room
    return folder / "model.onnx"


def _good() -> bytes:
    return model().SerializeToString()


def _deep() -> bytes:
    data = b""
    for _ in range(2000):  # attribute.g -> graph.node -> node.attribute, over and over
        data = _nested(1, _nested(5, _nested(6, data)))
    return b"\x08\x08" + _nested(7, data) + _nested(8, b"\x10\x12")


def _nested(field: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([field << 3 | 2]) + length + data


def _link_to_itself(folder: Path) -> Path:
    (folder / "model.onnx").symlink_to("model.onnx")
    return folder / "model.onnx"


def _growing(folder: Path) -> Path:
    """A file that says it is longer than it is, by way of /proc: reading ends, whatever ``stat`` says."""
    del folder
    return Path("/proc/self/status")


FILES: dict[str, tuple[Make, int, str]] = {
    "a file of the kernel": (_growing, 3, "is not an ONNX model"),
    "UTF-8 BOM": (saved(lambda: b"\xef\xbb\xbf" + _good()), 3, "is not an ONNX model"),
    "gzip": (saved(lambda: b"\x1f\x8b\x08" + bytes(100)), 3, "is gzip-compressed"),
    "symbolic link to itself": (_link_to_itself, 3, "cannot be read"),
    "empty": (saved(lambda: b""), 3, "is empty (0 bytes)"),
    "truncated": (saved(lambda: _good()[:-20]), 3, "is truncated: "),
    "truncated early": (saved(lambda: _good()[:3]), 3, "truncated"),
    "one byte": (saved(lambda: b"\x08"), 3, "is not an ONNX model"),
    "random": (saved(lambda: random.Random(0).randbytes(5000)), 3, "is not an ONNX model"),
    "html": (saved(lambda: b"\n<!DOCTYPE html>\n<html>404</html>"), 3, "is an HTML page"),
    "lfs": (saved(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), 3, "Git LFS pointer"),
    "zip": (saved(lambda: b"PK\x03\x04" + bytes(100)), 3, "is a zip archive"),
    "pickle": (saved(lambda: b"\x80\x04cos\nsystem\n."), 3, "is a Python pickle"),
    "text": (saved(lambda: b"{}"), 3, "is JSON or text"),
    "textproto": (saved(lambda: b"ir_version: 8\n"), 3, "is ONNX in text form"),
    "trailing zeros": (saved(lambda: _good() + bytes(10)), 3, "not part of a model"),
    "trailing bytes": (saved(lambda: _good() + b"garbage"), 3, "byte"),
    "two models": (saved(lambda: _good() * 2), 3, "more than one graph"),
    "directory": (_directory, 3, "is a directory"),
    "missing": (lambda folder: folder / "model.onnx", 3, "no such file"),
    "fifo": (_fifo, 3, "is a FIFO"),
    "socket": (_socket, 3, "is a socket"),
    "dev zero": (lambda folder: Path("/dev/zero"), 3, "is a character device"),
    "2 GiB": (_huge, 3, "more than the limit"),
    "2,000 deep": (saved(_deep), 3, "nested deeper"),
}

# --- tensors ------------------------------------------------------------------------------------------------------


def _weights(**fields: Any) -> Make:
    return saved(lambda: model(constants=[weight(**fields)]))


def _scattered(**data: Any) -> onnx.TensorProto:
    tensor = TensorProto(name="w", dims=[4, 4], data_type=FLOAT)
    for field, values in data.items():
        getattr(tensor, field).extend(values)
    return tensor


def _in_attribute() -> onnx.ModelProto:
    return model(
        [node("Constant", [], ["w"], value=weight(dims=[5, 4])), node("MatMul", ["x", "w"], ["y"])], constants=[]
    )


def _sparse(**fields: Any) -> onnx.SparseTensorProto:
    values = weight("w", dims=[16], **fields)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(16), "i"), [4, 4])


TENSORS: dict[str, tuple[Make, int, str]] = {
    "dims too big": (_weights(dims=[400, 4]), 3, "initializer 'w' (400x4) needs 6400 bytes and has 64"),
    "dims too small": (_weights(dims=[2, 4]), 3, "initializer 'w' (2x4) needs 32 bytes and has 64"),
    "dims huge": (_weights(dims=[1 << 62, 1 << 62]), 3, "initializer 'w' claims"),
    "dims negative": (_weights(dims=[-4, 4]), 3, "initializer 'w' has the negative shape"),
    "dims both negative": (_weights(dims=[-4, -4]), 3, "initializer 'w' has the negative shape"),
    "raw data short": (_weights(raw_data=bytes(60)), 3, "needs 64 bytes and has 60"),
    "raw data absent": (saved(lambda: model(constants=[_scattered()])), 3, "needs 16 values and has 0"),
    "typed data short": (saved(lambda: model(constants=[_scattered(float_data=[1.0])])), 3, "16 values and has 1"),
    "wrong field": (saved(lambda: model(constants=[_scattered(int64_data=[1] * 16)])), 3, "data in int64_data"),
    "type 0": (_weights(data_type=0), 3, "initializer 'w' has the unknown data type 0"),
    "type 99": (_weights(data_type=99), 3, "initializer 'w' has the unknown data type 99"),
    "raw data long": (_weights(raw_data=bytes(68)), 3, "needs 64 bytes and has 68"),
    "dims overflow": (_weights(dims=[1 << 32, 1 << 32]), 3, "initializer 'w' claims"),
    "two fields": (saved(lambda: model(constants=[_scattered(float_data=[0.0] * 16, int64_data=[1])])), 3, "keeps its"),
    "segment of a string": (_weights(data_type=TensorProto.STRING), 3, "initializer 'w'"),
    "in a branch": (
        saved(lambda: _conditional([node("Constant", [], ["w"], value=weight(dims=[9])), node("Relu", ["w"], ["t"])])),
        3, "attribute 'value' of node 'w' (Constant)",
    ),
    "in an attribute": (saved(_in_attribute), 3, "attribute 'value' of node 'w' (Constant)"),
    "in a sparse": (
        edited(lambda m: m.graph.sparse_initializer.append(_sparse(raw_data=b"")), constants=[]), 3, "sparse"
    ),
}  # fmt: skip

# --- the graph ----------------------------------------------------------------------------------------------------


def _if(inner: list[onnx.NodeProto], output: str, name: str = "if") -> onnx.NodeProto:
    branch = helper.make_graph(inner, "b", [], [value(output)])
    return node("If", ["c"], ["y"], name=name, then_branch=branch, else_branch=branch)


def _conditional(inner: list[onnx.NodeProto], output: str = "t") -> onnx.ModelProto:
    return model([_if(inner, output)], [value("x"), value("c", [], TensorProto.BOOL)], constants=[])


def _ifs(depth: int) -> onnx.ModelProto:
    inner = [node("Relu", ["x"], ["t0"])]
    for i in range(depth):
        branch = helper.make_graph(inner, "b", [], [value(f"t{i}")])
        inner = [node("If", ["c"], [f"t{i + 1}"], then_branch=branch, else_branch=helper.make_graph(
            [node("Relu", ["x"], [f"e{i}"])], "e", [], [value(f"e{i}")]))]  # fmt: skip
    inner.append(node("Relu", [f"t{depth}"], ["y"]))
    return model(inner, [value("x"), value("c", [], TensorProto.BOOL)], constants=[])


def _function(name: str, *calls: str) -> onnx.FunctionProto:
    body, at = [], "x"
    for i, call in enumerate(calls):
        body.append(node(call, [at], [f"v{i}"], domain="" if call == "Relu" else "local"))
        at = f"v{i}"
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["x"], [at], body, imports)


def _calling(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    built = model([node(functions[-1].name, ["x"], ["y"], domain="local")], constants=[], functions=list(functions))
    built.opset_import.append(helper.make_opsetid("local", 1))
    return built


def _tower() -> onnx.ModelProto:
    levels = [_function("f0", "Relu")] + [_function(f"f{i}", f"f{i - 1}", f"f{i - 1}") for i in range(1, 25)]
    return _calling(*levels)


GRAPHS: dict[str, tuple[Make, int, str]] = {
    "no graph": (edited(lambda m: m.ClearField("graph")), 3, "holds no graph"),
    "no outputs": (saved(lambda: model(outputs=[])), 3, "has no outputs"),
    "undefined input": (saved(lambda: model(constants=[])), 3, "node 'y' (MatMul) reads 'w', which nothing makes"),
    "undefined output": (saved(lambda: model(outputs=[value("z")])), 3, "nothing makes the output 'z'"),
    "duplicate value": (
        saved(lambda: model([node("Relu", ["x"], ["y"]), node("Relu", ["x"], ["y"])])), 3, "makes the value 'y' a"
    ),
    "output is an input": (saved(lambda: model([node("Relu", ["x"], ["x"])], outputs=[value("x")])), 3, "second time"),
    "duplicate initializer": (saved(lambda: model(constants=[weight(), weight()])), 3, "defines the value 'w' twice"),
    "duplicate input": (saved(lambda: model(inputs=[value("x"), value("x")])), 3, "defines the value 'x' twice"),
    "cycle": (
        saved(lambda: model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])])),
        3, "reads 'b', which is made from its own output: a cycle",
    ),
    "self loop": (saved(lambda: model([node("Add", ["x", "y"], ["y"])])), 3, "a cycle"),
    "out of order": (
        saved(lambda: model([node("Relu", ["a"], ["y"]), node("Relu", ["x"], ["a"])])), 3, "which is made only after it"
    ),
    "undefined in a branch": (saved(lambda: _conditional([node("Relu", ["q"], ["t"])])), 3, "reads 'q'"),
    "branch value outside": (
        saved(lambda: model([_if([node("Relu", ["x"], ["t"])], "t"), node("Relu", ["t"], ["z"])],
                            [value("x"), value("c", [], TensorProto.BOOL)], constants=[])), 3, "reads 't'",
    ),
    "recursive function": (saved(lambda: _calling(_function("f", "f"))), 3, "function 'f' calls itself"),
    "mutual recursion": (saved(lambda: _calling(_function("f", "g"), _function("g", "f"))), 3, "calls itself"),
    "function twice": (saved(lambda: _calling(_function("f", "Relu"), _function("f", "Relu"))), 3, "a function twice"),
    "function input undefined": (
        edited(lambda m: m.functions.append(helper.make_function(
            "local", "f", ["x"], ["y"], [node("Relu", ["q"], ["y"])], [helper.make_opsetid("", 18)]))), 3, "reads 'q'",
    ),
    "2^24 calls": (saved(_tower), 5, "functions unfold to"),
    "name not UTF-8": (
        saved(lambda: model([node("Relu", ["x"], ["y"], name="caff")]).SerializeToString().replace(b"aff", b"af\xe9")),
        3, "holds the name 'caf\\xe9', which is not UTF-8",
    ),
    "attribute twice": (
        edited(lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("a", 1)] * 2)), 3, "gives 'a' twice"
    ),
    "softmax axis": (saved(lambda: model([node("Softmax", ["x"], ["y"], axis=1 << 40)])), 3, "has axis 1099511627776"),
    "no heads": (
        saved(lambda: model([node("Attention", ["x", "x", "x"], ["y"], q_num_heads=0, kv_num_heads=0)], opset=23)),
        3, "num_heads 0",
    ),
    "NaN scale": (
        saved(lambda: model([node("Attention", ["x", "x", "x"], ["y"], scale=float("nan"))], opset=23)), 3, "scale nan"
    ),
    "gather out of range": (
        saved(lambda: model([node("Gather", ["w", "i"], ["y"])],
                            constants=[weight(), numpy_helper.from_array(np.array([4]), "i")])), 3, "gathers index 4",
    ),
    "gather index below": (
        saved(lambda: model([node("Gather", ["w", "i"], ["y"])],
                            constants=[weight(), numpy_helper.from_array(np.array([-5]), "i")])), 3, "-5",
    ),
    "gather axis": (
        saved(lambda: model([node("Gather", ["w", "i"], ["y"], axis=2)],
                            constants=[weight(), numpy_helper.from_array(np.array([0]), "i")])), 3, "along axis 2",
    ),
    "no inputs": (saved(lambda: model([node("Softmax", [], ["y"])])), 3, "has 0 inputs and takes 1"),
    "too many inputs": (saved(lambda: model([node("Relu", ["x", "x"], ["y"])])), 3, "has 2 inputs and takes 1"),
    "too many outputs": (saved(lambda: model([node("Relu", ["x"], ["y", "z"])])), 3, "has 2 outputs and takes 1"),
    "input left out": (saved(lambda: model([node("MatMul", ["x", ""], ["y"])])), 3, "lacks its input 'B'"),
    "no perm": (saved(lambda: model([node("Concat", ["x", "x"], ["y"])])), 3, "lacks its axis"),
    "no body": (saved(lambda: model([node("Loop", ["", "", "x"], ["y"])])), 3, "lacks its body"),
    "axis in words": (saved(lambda: model([node("Softmax", ["x"], ["y"], axis="last")])), 3, "axis of another type"),
    "endless equation": (
        saved(lambda: model([node("Einsum", ["x"], ["y"], equation="......")])), 3, "equation '......'"
    ),
    "equation": (saved(lambda: model([node("Einsum", ["x"], ["y"], equation="i\x1bj->i")])), 3, "equation 'i"),
    "reduction axes": (
        saved(lambda: model([node("ReduceMean", ["x"], ["y"], axes=[1 << 40])], opset=13)), 3, "axes [1099511627776]"
    ),
    "heads below 0": (
        saved(lambda: model([node("Attention", ["x", "x", "x"], ["y"], q_num_heads=-4, kv_num_heads=1)], opset=23)),
        3, "num_heads -4",
    ),
    "negative scale": (
        saved(lambda: model([node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])],
                            constants=[numpy_helper.from_array(np.float32(-1), "s")])), 3, "scale 's', which is not",
    ),
    "NaN as a quantization scale": (
        saved(lambda: model([node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])],
                            constants=[numpy_helper.from_array(np.float32("nan"), "s")])), 3, "scale 's', which is not",
    ),
    "zero scale": (
        saved(lambda: model([node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])],
                            constants=[numpy_helper.from_array(np.float32(0), "s")])), 3, "scale 's', which is not",
    ),
    "zero point type": (
        saved(lambda: model([node("DequantizeLinear", ["q", "s", "z"], ["y"])], constants=[
            numpy_helper.from_array(np.ones((1, 4), np.int8), "q"), numpy_helper.from_array(np.float32(1), "s"),
            numpy_helper.from_array(np.uint8(1), "z")])), 3, "a zero point 'z' of another type",
    ),
    "input without a type": (edited(lambda m: m.graph.input[0].ClearField("type")), 3, "input 'x' has no type"),
    "negative dimension": (saved(lambda: model(inputs=[value("x", [-2, 4])])), 3, "has the negative dimension -2"),
}  # fmt: skip

# --- sound, but not supported -------------------------------------------------------------------------------------


def _vendor() -> onnx.ModelProto:
    built = model([node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")])
    built.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return built


def _typed(kind: int) -> Make:
    return saved(lambda: model([node("Identity", ["x"], ["y"])], [value("x", kind=kind)], [value("y", kind=kind)], []))


def _produced(name: str) -> Make:
    kind = {"string": TensorProto.STRING, "bfloat16": TensorProto.BFLOAT16}[name]
    return saved(lambda: model([node("Cast", ["x"], ["y"], to=kind)], outputs=[value("y", kind=kind)], constants=[]))


def _sequence_out() -> onnx.ModelProto:
    y = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    return model([node("SequenceConstruct", ["x"], ["y"])], outputs=[y], constants=[])


def _sequence() -> onnx.ModelProto:
    x = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    return model([node("SequenceLength", ["x"], ["y"])], [x], [value("y", [], TensorProto.INT64)], [])


def _optional() -> onnx.ModelProto:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [1]))
    x = helper.make_value_info("x", kind)
    return model([node("OptionalGetElement", ["x"], ["y"])], [x], [value("y", [1])], [])


UNSUPPORTED: dict[str, tuple[Make, int, str]] = {
    "opset 999": (saved(lambda: model(opset=999)), 4, "has opset 999; supported are 11 to 26"),
    "opset 6": (saved(lambda: model(opset=6)), 4, "has opset 6; supported are 11 to 26"),
    "opset 0": (saved(lambda: model(opset=0)), 4, "has opset 0; supported are 11 to 26"),
    "no opset": (edited(lambda m: m.ClearField("opset_import")), 4, "does not say its opset; supported are 11 to 26"),
    "IR 999": (edited(lambda m: setattr(m, "ir_version", 999)), 4, "has IR version 999; supported are 3 to"),
    "IR 0": (edited(lambda m: setattr(m, "ir_version", 0)), 4, "has IR version 0; supported are 3 to"),
    "vendor operator": (saved(_vendor), 4, "outside the ONNX standard: com.microsoft::FusedMatMul"),
    "unknown domain": (saved(lambda: model([node("Foo", ["x"], ["y"], domain="my")])), 4, "standard: my::Foo"),
    "unknown operator": (saved(lambda: model([node("Foo", ["x"], ["y"])])), 4, "opset 18 does not have: Foo"),
    "operator of a later opset": (
        saved(lambda: model([node("Attention", ["x", "x", "x"], ["y"])])), 4, "opset 18 does not have: Attention"
    ),
    "vendor operator in a branch": (
        saved(lambda: _conditional([node("Foo", ["x"], ["t"], domain="com.microsoft")])), 4, "com.microsoft::Foo"
    ),
    "vendor operator in a function": (
        edited(lambda m: m.functions.append(helper.make_function(
            "local", "f", ["x"], ["y"], [node("Foo", ["x"], ["y"], domain="com.microsoft")],
            [helper.make_opsetid("", 18)]))), 4, "com.microsoft::Foo",
    ),
    "local function": (saved(lambda: _calling(_function("f", "Relu"))), 4, "calls functions of its own: local::f"),
    "string input": (_typed(TensorProto.STRING), 4, "input 'x' is string"),
    "bf16 input": (_typed(TensorProto.BFLOAT16), 4, "input 'x' is bfloat16"),
    "fp8 input": (_typed(TensorProto.FLOAT8E4M3FN), 4, "input 'x' is float8e4m3fn"),
    "int4 input": (_typed(TensorProto.INT4), 4, "input 'x' is int4"),
    "string output": (_produced("string"), 4, "output 'y' is string"),
    "bf16 output": (_produced("bfloat16"), 4, "output 'y' is bfloat16"),
    "sequence output": (saved(_sequence_out), 4, "output 'y' is a sequence"),
    "complex input": (_typed(TensorProto.COMPLEX64), 4, "input 'x' is complex64"),
    "type 99": (_typed(99), 4, "input 'x' is type 99"),
    "sequence input": (saved(_sequence), 4, "input 'x' is a sequence"),
    "optional input": (saved(_optional), 4, "input 'x' is a optional"),
    "no rank": (edited(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")), 4, "--shape x=1x3x224x224"),
    "dimension 0": (saved(lambda: model(inputs=[value("x", [0, 4])])), 4, "--shape x=1x3x224x224"),
}  # fmt: skip

# --- external data ------------------------------------------------------------------------------------------------


def outside(name: str = "w", **entries: str) -> onnx.TensorProto:
    """A tensor that keeps its 64 bytes in another file."""
    tensor = TensorProto(name=name, dims=[4, 4], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def beside(
    prepare: Callable[[Path], object] = lambda folder: (folder / "w.bin").write_bytes(bytes(64)),
    build: Callable[[onnx.TensorProto], onnx.ModelProto] = lambda tensor: model(constants=[tensor]),
    **entries: str,
) -> Make:
    """A model in ``folder/m`` whose data is what ``prepare(folder/m)`` makes; ``folder`` has a secret beside it."""

    def make(folder: Path) -> Path:
        (folder / "secret.bin").write_bytes(bytes(64))
        (folder / "m").mkdir()
        prepare(folder / "m")
        path = folder / "m" / "model.onnx"
        path.write_bytes(build(outside(**({"location": "w.bin"} | entries))).SerializeToString())
        return path

    return make


def _linked_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "w.bin").write_bytes(bytes(64))
    (folder / "d").symlink_to(folder.parent / "elsewhere")


def _as_sparse(tensor: onnx.TensorProto) -> onnx.ModelProto:
    tensor.dims[:] = [16]
    sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.arange(16), "i"), [4, 4])
    built = model(constants=[])
    built.graph.sparse_initializer.append(sparse)
    return built


def _as_attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return model([node("Constant", [], ["w"], value=tensor), node("MatMul", ["x", "w"], ["y"])], constants=[])


def _as_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return _conditional([node("Constant", [], ["w"], value=tensor), node("MatMul", ["x", "w"], ["t"])])


def _as_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    function = helper.make_function(
        "local", "f", ["x"], ["y"], [node("Constant", [], ["y"], value=tensor)], [helper.make_opsetid("", 18)]
    )
    built = model()
    built.functions.append(function)
    return built


def _as_tensors(tensor: onnx.TensorProto) -> onnx.ModelProto:
    built = model()
    built.graph.node[0].attribute.add(name="extra", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    return built


def _as_indices(tensor: onnx.TensorProto) -> onnx.ModelProto:
    tensor.data_type = TensorProto.INT64
    tensor.dims[:] = [16]
    built = model(constants=[])
    sparse = built.graph.sparse_initializer.add(dims=[4, 4])
    sparse.values.CopyFrom(weight(dims=[16]))
    sparse.indices.CopyFrom(tensor)
    return built


def _as_training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    built = model()
    built.training_info.add().initialization.initializer.append(tensor)
    return built


def _as_default(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """The default of a function's attribute."""
    built = _as_function(TensorProto())
    built.functions[0].attribute_proto.append(helper.make_attribute("a", tensor))
    built.functions[0].node[0].attribute[0].CopyFrom(helper.make_attribute("value", weight()))
    return built


def _twice(tensor: onnx.TensorProto) -> onnx.ModelProto:
    tensor.external_data.add(key="location", value="../secret.bin")
    return model(constants=[tensor])


def _bound(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("w.bin")
    os.chdir(here)


def _sparse_file(folder: Path) -> None:
    with (folder / "w.bin").open("wb") as file:
        file.truncate(3 << 30)


def _as_huge(tensor: onnx.TensorProto) -> onnx.ModelProto:
    tensor.dims[:] = [1 << 15, 3 << 13]  # 3 GiB
    return model(constants=[tensor])


def _nothing(folder: Path) -> None:
    del folder


ESCAPE = "wants to read"
EXTERNAL: dict[str, tuple[Make, int, str]] = {
    "parent": (beside(location="../secret.bin"), 6, "'../secret.bin', outside the model's directory"),
    "parent in the middle": (beside(location="d/../../secret.bin"), 6, ESCAPE),
    "absolute": (beside(location="/etc/passwd"), 6, "'/etc/passwd', outside the model's directory"),
    "backslash": (beside(location="..\\secret.bin"), 6, ESCAPE),
    "drive": (beside(location="C:\\secret.bin"), 6, ESCAPE),
    "home": (beside(location="~/secret.bin"), 6, ESCAPE),
    "symlink": (beside(lambda d: (d / "w.bin").symlink_to(d.parent / "secret.bin")), 6, "through a link"),
    "symlink inside": (
        beside(lambda d: ((d / "v").write_bytes(bytes(64)), (d / "w.bin").symlink_to("v"))), 6, "through a link"
    ),
    "symlink to dev": (beside(lambda d: (d / "w.bin").symlink_to("/dev/zero")), 6, "through a link"),
    "symlinked parent": (beside(_linked_folder, location="d/w.bin"), 6, "through a link"),
    "hard link": (beside(lambda d: os.link(d.parent / "secret.bin", d / "w.bin")), 6, "a hard link"),
    "in an attribute": (beside(build=_as_attribute, location="../secret.bin"), 6, "attribute 'value' of node 'w'"),
    "in a branch": (beside(build=_as_branch, location="../secret.bin"), 6, ESCAPE),
    "in a function": (beside(build=_as_function, location="../secret.bin"), 6, ESCAPE),
    "in a sparse tensor": (beside(build=_as_sparse, location="../secret.bin"), 6, ESCAPE),
    "in sparse indices": (beside(build=_as_indices, location="../secret.bin"), 6, ESCAPE),
    "in training": (beside(build=_as_training, location="../secret.bin"), 6, ESCAPE),
    "in a default": (beside(build=_as_default, location="../secret.bin"), 6, ESCAPE),
    "two locations": (beside(build=_twice), 3, "gives its location twice"),
    "socket": (beside(_bound), 3, "where there is a socket"),
    "parent, encoded": (beside(location="%2e%2e/secret.bin"), 3, "cannot be found"),
    "in an attribute list": (beside(build=_as_tensors, location="../secret.bin"), 6, ESCAPE),
    "fifo": (beside(lambda d: os.mkfifo(d / "w.bin")), 3, "where there is a FIFO"),
    "directory": (beside(lambda d: (d / "w.bin").mkdir()), 3, "where there is a directory"),
    "through a file": (beside(location="w.bin/x"), 3, "not a file"),
    "missing": (beside(_nothing), 3, "cannot be found"),
    "missing folder": (beside(_nothing, location="d/w.bin"), 3, "cannot be found"),
    "no location": (beside(location=""), 3, "which is not a file"),
    "dot": (beside(location="."), 3, "which is not a file"),
    "dot slash": (beside(location="./"), 3, "which is not a file"),
    "double slash": (beside(location="d//w.bin"), 3, "which is not a file"),
    "NUL": (beside(location="w.bin\0x"), 3, "which is not a file"),
    "long name": (beside(location="w" * 5000), 3, "cannot be found"),
    "the model itself": (beside(location="model.onnx"), 3, "the model itself"),
    "offset beyond": (beside(offset="4096"), 3, "needs bytes 4096 to 4160 of 'w.bin', which has 64"),
    "offset + length beyond": (beside(offset="32"), 3, "needs bytes 32 to 96"),
    "length beyond": (beside(length="4096"), 3, "needs 64 bytes of external data and names 4096"),
    "length short": (beside(length="60"), 3, "needs 64 bytes of external data and names 60"),
    "negative offset": (beside(offset="-1"), 3, "has the offset '-1'"),
    "negative length": (beside(length="-64"), 3, "has the length '-64'"),
    "offset in words": (beside(offset="٣"), 3, "has the offset"),
    "offset huge": (beside(offset="9" * 40), 3, "has the offset"),
    "file short": (beside(lambda d: (d / "w.bin").write_bytes(bytes(63))), 3, "which has 63"),
}  # fmt: skip

# --- well formed, until an engine has it --------------------------------------------------------------------------


def _filled(op: str, inputs: list[str], *constants: onnx.TensorProto, opset: int = 18, **attributes: Any) -> Make:
    """``y`` is ``x`` and the sum of what a node with constant inputs makes."""
    nodes = [node(op, inputs, ["made"], **attributes), node("Cast", ["made"], ["f"], to=FLOAT)]
    nodes += [node("ReduceSum", ["f"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    return saved(lambda: model(nodes, constants=list(constants), opset=opset))


def whole(name: str, *numbers: int) -> onnx.TensorProto:
    """An int64 constant: a scalar, or a vector."""
    return numpy_helper.from_array(np.array(numbers[0] if len(numbers) == 1 else numbers), name)


def _doubling(times: int) -> onnx.ModelProto:
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=1) for i in range(times)]
    nodes = [node("Relu", ["x"], ["v0"]), *nodes, node("ReduceSum", [f"v{times}"], ["s"])]
    return model([*nodes, node("Add", ["x", "s"], ["y"])], constants=[])


def _attending(**attributes: Any) -> Make:
    x, y = value("x", [1, 5, 4]), value("y", [1, 5, 4])
    return saved(lambda: model([node("Attention", ["x", "x", "x"], ["y"], **attributes)], [x], [y], [], opset=23))


def _convolved(**attributes: Any) -> Make:
    kernel = numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "w")
    image, y = value("x", [1, 4, 8, 8]), value("y", ["a", "b", "c", "d"])
    return saved(lambda: model([node("Conv", ["x", "w"], ["y"], **attributes)], [image], [y], [kernel]))


def _constant_index() -> onnx.ModelProto:
    nodes = [node("Constant", [], ["i"], value=whole("v", 9)), node("Gather", ["w", "i"], ["g"])]
    return model([*nodes, node("Add", ["x", "g"], ["y"])])


MEMORY = "needs "
ENGINE: dict[str, tuple[Make, int, str]] = {
    "ConstantOfShape 4e10": (
        _filled("ConstantOfShape", ["n"], numpy_helper.from_array(np.array([40_000_000_000]), "n")), 5, MEMORY
    ),
    "Range 1e12": (_filled("Range", ["a", "b", "c"], whole("a", 0), whole("b", 10**12), whole("c", 1)), 5, MEMORY),
    "Expand 2^60": (_filled("Expand", ["x", "n"], whole("n", 1 << 30, 1 << 28, 1, 4)), 5, MEMORY),
    "Tile 2^80": (_filled("Tile", ["x", "n"], whole("n", 1 << 40, 1 << 40)), 5, MEMORY),
    "Pad 2^80": (_filled("Pad", ["x", "n"], whole("n", 0, 0, 1 << 40, 1 << 40)), 5, MEMORY),
    "OneHot 2^40": (
        saved(lambda: model([
            node("Cast", ["x"], ["k"], to=TensorProto.INT64), node("OneHot", ["k", "d", "v"], ["h"]),
            node("ReduceSum", ["h", "last"], ["y"], keepdims=0)],
            constants=[whole("d", 1 << 40), numpy_helper.from_array(np.float32([0, 1]), "v"),
                       numpy_helper.from_array(np.array([2]), "last")])), 5, MEMORY,
    ),
    "random 2^40": (_filled("RandomNormal", [], shape=[1 << 40]), 5, MEMORY),
    "doubled 40 times": (saved(lambda: _doubling(40)), 5, MEMORY),
    "doubled 80 times": (saved(lambda: _doubling(80)), 5, MEMORY),
    "input of 2^33": (saved(lambda: model(
        [node("Relu", ["x"], ["y"])], [value("x", [1 << 31, 4])], [value("y", [1 << 31, 4])], [])), 5, MEMORY),
    "input of 2^124": (saved(lambda: model(
        [node("Relu", ["x"], ["y"])], [value("x", [1 << 62] * 2)], [value("y", [1 << 62] * 2)], [])), 5, MEMORY),
    "heads do not divide": (_attending(q_num_heads=3, kv_num_heads=3), 3, "does not run"),
    "more key heads than heads": (_attending(q_num_heads=2, kv_num_heads=4), 3, "does not run"),
    "gather by a Constant node": (saved(_constant_index), 3, "does not run"),
    "integer division by zero": (_filled("Div", ["a", "b"], whole("a", 7), whole("b", 0)), 4, "onnxruntime"),
    "remainder of zero": (_filled("Mod", ["a", "b"], whole("a", 7), whole("b", 0)), 4, "onnxruntime"),
    "softmax axis 5": (saved(lambda: model([node("Softmax", ["x"], ["y"], axis=5)])), 4, "'axis' must be in"),
    "groups of 0": (_convolved(group=0), 3, "does not run"),
    "strides of 0": (_convolved(strides=[0, 0]), 4, "strides"),
    "dilations of 2^62": (_convolved(dilations=[1 << 62, 1]), 3, "does not run"),
    "pads of 2^40": (_convolved(pads=[1 << 40] * 4), 5, MEMORY),
    "reshape to -1, -1": (saved(lambda: model(
        [node("Reshape", ["x", "n"], ["y"])], constants=[whole("n", -1, -1)])), 4, "multiple -1"),
    "step of 0": (saved(lambda: model(
        [node("Slice", ["x", "a", "b", "a", "a"], ["y"])],
        constants=[numpy_helper.from_array(np.array([0]), "a"), numpy_helper.from_array(np.array([2]), "b")])), 4, "0"),
    "matrices that do not fit": (saved(lambda: model(constants=[weight(dims=[2, 8])])), 4, "multiplication"),
    "sparse initializer": (
        edited(lambda m: m.graph.sparse_initializer.append(_sparse()), constants=[]), 4, "as a sparse initializer"
    ),
    "branches of nothing": (
        saved(lambda: model(
            [node("If", ["c"], ["y"], then_branch=helper.make_graph([], "b", [], []),
                  else_branch=helper.make_graph([], "b", [], []))],
            constants=[numpy_helper.from_array(np.array(True), "c")])), 4, "subgraphs produce 0",
    ),
}  # fmt: skip

LETHAL: dict[str, tuple[Make, str]] = {
    # x86 traps where the quotient of two 64-bit integers has no 64-bit value; ONNX Runtime only looks for 0.
    "smallest integer by -1": (
        _filled("Div", ["a", "b"], whole("a", -(1 << 63)), whole("b", -1)),
        "ONNX Runtime died by SIGFPE",
    ),
}

CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("file", FILES), ("tensor", TENSORS), ("graph", GRAPHS), ("unsupported", UNSUPPORTED), ("external", EXTERNAL)
    )
    for name, case in cases.items()
}  # fmt: skip


# --- odd, but right -----------------------------------------------------------------------------------------------

NAMES = {
    "newline": "a\nb",
    "path": "../x",
    "bidi": "a\u202eb",
    "ansi": "\x1b[31mred",
    "64 KiB": "n" * 65536,
    "NUL": "a\0b",
}


def _renamed(name: str) -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], [name], name=name)], outputs=[value(name)])


def _many() -> onnx.ModelProto:
    nodes = [node("Relu", ["x" if i == 0 else f"v{i}"], [f"v{i + 1}"]) for i in range(200_000)]
    return model(nodes, outputs=[value("v200000")], constants=[])


def _looping() -> onnx.ModelProto:
    boolean, integer = TensorProto.BOOL, TensorProto.INT64
    body = helper.make_graph(
        [node("Add", ["sum", "sum"], ["next"]), node("Identity", ["go"], ["on"])], "body",
        [value("i", [], integer), value("go", [], boolean), value("sum")], [value("on", [], boolean), value("next")],
    )  # fmt: skip
    constants = [whole("rounds", 3), numpy_helper.from_array(np.array(True), "true")]
    return model([node("Loop", ["rounds", "true", "x"], ["y"], body=body)], constants=constants)


GOOD: dict[str, Make] = {
    "plain": saved(model),
    "opset 11": saved(lambda: model(opset=11)),
    "opset 23": saved(lambda: model(opset=23)),
    "opset 26": saved(lambda: model(opset=26)),
    "symbolic dimensions": saved(lambda: model(inputs=[value("x", ["batch", 4])])),
    "scalar and empty tensors": saved(lambda: model(constants=[
        weight(), numpy_helper.from_array(np.float32(1), "s"), numpy_helper.from_array(np.zeros((0, 3)), "e")])),
    "typed data": saved(lambda: model(constants=[_scattered(float_data=[0.0] * 16)])),
    "int4 and bool weights": saved(lambda: model(constants=[
        weight(), helper.make_tensor("q", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("b", TensorProto.BOOL, [2], [True, False])])),
    "optional input left out": saved(lambda: model([node("Clip", ["x", "", "m"], ["y"])], constants=[
        numpy_helper.from_array(np.float32(1), "m")])),
    "sparse initializer": edited(lambda m: m.graph.sparse_initializer.append(_sparse()), constants=[]),
    "a branch sees outside": saved(lambda: _conditional([node("Relu", ["x"], ["t"])])),
    "30 nested Ifs": saved(lambda: _ifs(30)),
    "200,000 nodes": saved(_many),
    "QDQ": saved(lambda: model(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        constants=[numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")])),
    "loop": saved(_looping),
    "scan": saved(lambda: model([node("Scan", ["x"], ["y"], num_scan_inputs=1, body=helper.make_graph(
        [node("Relu", ["a"], ["b"])], "body", [value("a", [4])], [value("b", [4])]))], constants=[])),
    "sequence inside": saved(lambda: model(
        [node("SequenceConstruct", ["x", "x"], ["q"]), node("ConcatFromSequence", ["q"], ["y"], axis=0)],
        outputs=[value("y", [2, 4])], constants=[])),
    "optional inside": saved(lambda: model(
        [node("Optional", ["x"], ["o"]), node("OptionalGetElement", ["o"], ["y"])], constants=[])),
    "bfloat16 inside": saved(lambda: model(
        [node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16), node("Cast", ["h"], ["y"], to=FLOAT)], constants=[])),
    "float8 inside": saved(lambda: model(
        [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT8E4M3FN), node("Cast", ["h"], ["y"], to=FLOAT)], opset=19,
        constants=[])),
    "int4 weights": saved(lambda: model(
        [node("DequantizeLinear", ["q", "s"], ["w"]), node("MatMul", ["x", "w"], ["y"])], opset=21,
        constants=[helper.make_tensor("q", TensorProto.INT4, [4, 4], [1] * 16),
                   numpy_helper.from_array(np.float32(0.5), "s")])),
    "rows masked whole": saved(lambda: model(
        [node("Add", ["x", "never"], ["m"]), node("Softmax", ["m"], ["y"])],
        constants=[numpy_helper.from_array(np.full((1, 4), np.float32(-1e38)), "never")])),
    "no nodes": saved(lambda: model([], outputs=[value("x")], constants=[])),
    "a weight as the output": saved(lambda: model([], outputs=[value("w", [4, 4])])),
    "nodes without names": saved(lambda: model([node("MatMul", ["x", "w"], ["y"], name="")])),
    "odd dimension names": saved(lambda: model(inputs=[value("x", ["a\nb \x1b[31m ../\u202e", 4])],
                                               outputs=[value("y", ["", 4])])),
    "scalar input": saved(lambda: model(
        [node("Relu", ["x"], ["y"])], [value("x", [])], [value("y", [])], [])),
    "boolean scalar": saved(lambda: model(
        [node("Not", ["x"], ["y"])], [value("x", [], TensorProto.BOOL)], [value("y", [], TensorProto.BOOL)], [])),
    "external data": beside(),
    "external data in a folder": beside(
        lambda d: ((d / "d").mkdir(), (d / "d" / "w.bin").write_bytes(bytes(100))), location="./d/w.bin", offset="36"),
    **{f"name: {kind}": saved(lambda name=name: _renamed(name)) for kind, name in NAMES.items()},  # type: ignore[misc]
}  # fmt: skip
