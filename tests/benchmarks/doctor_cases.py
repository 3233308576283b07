"""Graphs to ask engines about: ONNX's own node tests, those with their small inputs stored, and the planted graphs.

A test gives axes, shapes and scales as inputs; models store them. With both forms it can be told whether an engine
lacks an operator, or wants to know its parameters.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from tests.benchmarks.doctor_planted import planted

_IR, _USUAL_OPSET = 10, 18  # that every engine reads; that PyTorch's exporter writes
_SMALL = 16  # elements: axes, shapes, scales, zero points


def every_case(folder: Path) -> list[Path]:
    """All of them, as files in a folder."""
    return [*node_cases(folder), *planted_cases(folder)]


def planted_cases(folder: Path) -> list[Path]:
    """The planted graphs, as ``planted.GROUP.NAME.onnx``."""
    files = []
    for name, model in planted().items():
        values = {told.key: np.asarray(json.loads(told.value)) for told in model.metadata_props}
        files.append(_written(folder / f"planted.{name.replace('/', '.')}.onnx", model, values))
    return files


def node_cases(folder: Path) -> list[Path]:
    """ONNX's node tests as files: as they are, ``NAME.stored.onnx``, ``NAME.low.onnx`` in the oldest opset in
    which its operators are the same, and ``NAME.usual.onnx`` in the one that exporters write, where that knows them."""
    files = []
    for name, model, feeds in _loaded():
        files += [_written(folder / f"{name}.onnx", model, feeds)]
        stored = _stored(model, feeds)
        if stored is not None:
            files += [_written(folder / f"{name}.stored.onnx", stored, {})]
        left = {} if stored is not None else feeds
        low, usual = _lowered(stored or model), _at(stored or model, _USUAL_OPSET)
        files += [_written(folder / f"{name}.low.onnx", low, left)] if low is not None else []
        files += [_written(folder / f"{name}.usual.onnx", usual, left)] if usual is not None else []
    return files


def _loaded() -> Iterator[tuple[str, onnx.ModelProto, dict[str, np.ndarray]]]:  # type: ignore[type-arg]
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about the infinities that the tests are about
        tests = load_model_tests(kind="node")
    for test in tests:
        given = test.data_sets[0][0] if test.data_sets else []
        named = zip((v.name for v in test.model.graph.input), given, strict=False)
        yield test.name, test.model, {n: v for n, v in named if isinstance(v, np.ndarray) and v.dtype != object}


def _written(file: Path, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Path:  # type: ignore[type-arg]
    onnx.save(model, file)
    whole = {n: v.reshape(-1).tolist() for n, v in feeds.items() if v.dtype.kind in "iu" and v.size <= 64}
    Path(f"{file}.json").write_text(json.dumps(whole))
    return file


def _stored(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto | None:  # type: ignore[type-arg]
    """A copy with every small input but the first in the file; None where there is none."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.input[:]
    for place, value in enumerate(model.graph.input):
        given = feeds.get(value.name)
        if place == 0 or given is None or given.size > _SMALL:
            copy.graph.input.append(value)
            continue
        tensor = onnx.numpy_helper.from_array(given, value.name)
        tensor.data_type = value.type.tensor_type.elem_type
        copy.graph.initializer.append(tensor)
    return copy if copy.graph.initializer else None


def _at(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """A copy that says it is in an older opset; None where that opset does not know it, by ONNX's full check."""
    if any(node.domain for node in model.graph.node) or model.functions:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = _IR
    for own in copy.opset_import:
        if own.domain == "":
            if own.version <= opset:
                return None
            own.version = opset
    try:
        onnx.checker.check_model(copy, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return copy


def _lowered(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy in the oldest opset in which its operators read the same; None where that is its own."""
    opset = next((o for o in model.opset_import if o.domain == ""), None)
    if opset is None or any(n.domain for n in model.graph.node) or model.functions:
        return None
    try:
        since = [onnx.defs.get_schema(n.op_type, opset.version, "").since_version for n in model.graph.node]
    except onnx.defs.SchemaError:
        return None
    if any(a.HasField("g") for n in model.graph.node for a in n.attribute):
        return None
    least, ir = max([*since, 11]), min(model.ir_version, _IR)
    if (least, ir) == (opset.version, model.ir_version):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    next(o for o in copy.opset_import if o.domain == "").version = least
    copy.ir_version = ir
    return copy
