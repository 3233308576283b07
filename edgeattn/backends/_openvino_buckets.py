"""A graph at several fixed lengths: one IR a bucket, inputs padded into the smallest that holds them, outputs cut back.

Files: ``<graph>.json`` (which bucket is which file, which axes follow the length), ``<graph>.<size>.xml`` each, and
``<graph>.bin``, which they share: weights do not depend on lengths. Padding is zeros: False in a mask, so that a model
with one computes the same; whether it does is for a parity check to say, on any device, since the IR is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.backends._openvino_models import core, save
from edgeattn.buckets import TooLong
from edgeattn.errors import BadInput, IntegrityError, Unsupported
from edgeattn.graphs import input_specs
from edgeattn.program import Session, TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays


@dataclass(frozen=True)
class Index:
    """What ``<graph>.json`` says.

    Attributes:
        dimension: what the graph calls the length. sizes: bucket -> its ``(xml, bin)``.
        inputs: input -> the axis that is the length.
        outputs: output -> its axis that follows the length, and by how much it is longer (a cache grows by 1).
        order: the outputs' names, in order.
    """

    dimension: str
    sizes: Mapping[int, tuple[str, str]]
    inputs: Mapping[str, int]
    outputs: Mapping[str, tuple[int, int]]
    order: Sequence[str]


def lengths(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """Dynamic dimensions other than the batch -> the inputs that have them -> the axis there."""
    found: dict[str, dict[str, int]] = {}
    for spec in input_specs(model):
        for axis, d in enumerate(spec.shape):
            if isinstance(d, str) and d != "batch" and axis > 0:
                found.setdefault(d, {})[spec.name] = axis
    return found


def write(ir: Any, model: onnx.ModelProto, sizes: Sequence[int], out: Path, graph: str) -> str:
    """Save one IR a bucket; the name of the index.

    Args:
        ir: OpenVINO's model, left as it is. model: the ONNX graph, with exactly one dynamic length.
        sizes: the buckets. out: the directory. graph: its name.

    Raises:
        Unsupported: an output's size is no sum of the length and a constant.
    """
    ((dimension, inputs),) = lengths(model).items()
    order = [str(port.get_any_name()) for port in ir.outputs]
    shaped = {size: _at(ir, inputs, size) for size in (*sizes, max(sizes) + 1)}
    files = {}
    for size in sizes:
        xml = out / f"{graph}.{size}.xml"
        save(shaped[size], xml)
        files[size] = (xml.name, _shared(xml.with_suffix(".bin"), out / f"{graph}.bin"))
    outputs = _following(shaped[sizes[0]], shaped[max(sizes) + 1], sizes[0], max(sizes) + 1, order)
    index = {"dimension": dimension, "sizes": files, "inputs": inputs, "outputs": outputs, "order": order}
    (out / f"{graph}.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return f"{graph}.json"


def read(file: Path) -> Index:
    """The index that ``write`` left.

    Raises:
        IntegrityError: it is none.
    """
    try:
        told = json.loads(file.read_bytes())
        sizes = {int(size): (str(xml), str(weights)) for size, (xml, weights) in told["sizes"].items()}
        outputs = {name: (int(axis), int(more)) for name, (axis, more) in told["outputs"].items()}
        inputs = {name: int(axis) for name, axis in told["inputs"].items()}
        if any(Path(name).name != name for pair in sizes.values() for name in pair):
            raise ValueError("a file elsewhere")
        return Index(str(told["dimension"]), sizes, inputs, outputs, [str(name) for name in told["order"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"is no index of buckets ({error})", where=str(file), hint="compile it again") from None


def models(file: Path, index: Index) -> dict[int, Any]:
    """OpenVINO's model of every bucket."""
    return {size: core().read_model(file.parent / xml, file.parent / held) for size, (xml, held) in index.sizes.items()}


class BucketedSession:
    """A graph of any length up to the largest bucket; see :class:`edgeattn.program.Session`."""

    def __init__(self, index: Index, open_one: Callable[[int], Session]) -> None:
        self._index = index
        self._sessions = {size: open_one(size) for size in sorted(index.sizes)}
        first = next(iter(self._sessions.values()))
        self.inputs = tuple(self._named(spec, index.inputs.get(spec.name)) for spec in first.inputs)
        self.outputs = tuple(self._named(s, index.outputs.get(s.name, (None, 0))[0]) for s in first.outputs)

    def _named(self, spec: TensorSpec, axis: int | None) -> TensorSpec:
        shape = tuple(self._index.dimension if i == axis else d for i, d in enumerate(spec.shape))
        return replace(spec, shape=shape)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run in the smallest bucket that holds the length.

        Raises:
            TooLong: none holds it.
        """
        length = self._length(feeds)
        size = next((size for size in self._sessions if size >= length), None)
        if size is None:
            largest = max(self._sessions)
            raise TooLong(
                f"'{self._index.dimension}' is {length}, and the largest bucket is {largest}",
                hint=f"cut it to {largest}, or compile with a bucket of {length}",
            )
        padded = {name: self._padded(name, value, size) for name, value in feeds.items()}
        return {name: self._cut(name, value, length, size) for name, value in self._sessions[size].run(padded).items()}

    def _length(self, feeds: Arrays) -> int:
        found: dict[int, str] = {}
        for name, axis in self._index.inputs.items():
            spec = next(spec for spec in self.inputs if spec.name == name)
            if name not in feeds:
                raise BadInput(f"missing input '{name}'", hint=f"expected {spec}")
            if feeds[name].ndim != len(spec.shape):
                raise BadInput(f"input '{name}' has shape {list(feeds[name].shape)}", hint=f"expected {spec}")
            found.setdefault(feeds[name].shape[axis], name)
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise BadInput(f"'{self._index.dimension}' is {one} in input '{first}' and {other} in '{second}'")
        return next(iter(found))

    def _padded(self, name: str, value: Array, size: int) -> Array:
        axis = self._index.inputs.get(name)
        if axis is None or value.shape[axis] == size:
            return value
        room = np.zeros((*value.shape[:axis], size, *value.shape[axis + 1 :]), value.dtype)
        room[(slice(None),) * axis + (slice(value.shape[axis]),)] = value
        return room

    def _cut(self, name: str, value: Array, length: int, size: int) -> Array:
        """The positions that are real, and what a step put behind them."""
        if name not in self._index.outputs or length == size:
            return value
        axis, more = self._index.outputs[name]
        return np.take(value, [*range(length), *range(size, size + more)], axis)


def _at(ir: Any, inputs: Mapping[str, int], size: int) -> Any:
    """A copy of the model in which the length is ``size``."""
    model = ir.clone()
    shapes = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        for name in set(inputs) & set(port.get_names()):
            shape[inputs[name]] = size
        shapes[port] = shape
    model.reshape(shapes)
    return model


def _shared(weights: Path, common: Path) -> str:
    """Where a bucket's weights are: with those of the first, unless they differ."""
    if not common.exists():
        weights.rename(common)
    elif weights.read_bytes() == common.read_bytes():
        weights.unlink()
    else:
        return weights.name
    return common.name


def _following(one: Any, other: Any, size: int, longer: int, order: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Outputs that are longer where the input is, from their shapes at two lengths."""
    found = {}
    for name, a, b in zip(order, one.outputs, other.outputs, strict=True):
        for axis, (x, y) in enumerate(zip(a.get_partial_shape(), b.get_partial_shape(), strict=True)):
            if x.is_dynamic or y.is_dynamic or x == y:
                continue
            more = x.get_length() - size
            if name in found or y.get_length() - longer != more or more < 0:
                raise Unsupported(
                    f"output '{name}' has size {x.get_length()} at length {size} and {y.get_length()} at {longer}",
                    where="buckets",
                    hint="only sizes that are the length, or a constant more, can be cut back",
                )
            found[name] = (axis, more)
    return found
