"""ONNX's own test cases: graphs of other people, their inputs, and the outputs and tolerances they come with.

Three suites from ``onnx.backend.test``: *node* (an operator each, generated), *light* (nine image networks with the
outputs of their authors) and *stored* (what the PyTorch and simple converters once wrote, with its data).

Cases older than opset 11 are brought to opset 18 by ONNX's own version converter before anybody sees them, so that
they count for every tool; where the converter refuses, they stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test import runner

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
STORED = ("simple", "pytorch-converted", "pytorch-operator")
SUITES = ("node", "light", "stored")
OLDEST, MODERN = 11, 18
DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class SuiteCase:
    """A graph with inputs and expected outputs.

    Attributes:
        suite: ``node``, ``light`` or ``stored``. name: unique in its suite.
        rtol, atol: the suite's tolerances for this case.
        source: a ModelProto, or the file it lies in.
        given: pairs of inputs and outputs where the suite generates them; else they lie beside ``source``.
    """

    suite: str
    name: str
    rtol: float
    atol: float
    source: Any
    given: tuple[DataSet, ...] = ()

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph, at opset 11 or later where ONNX can bring it there."""
        loaded = self.source if isinstance(self.source, onnx.ModelProto) else onnx.load(self.source)
        opset = max((o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")), default=OLDEST)
        if opset >= OLDEST:
            return loaded
        try:
            return onnx.version_converter.convert_version(loaded, MODERN)
        except Exception:
            return loaded

    @cached_property
    def data_sets(self) -> list[tuple[dict[str, Any], list[Any]]]:
        """``(feeds, expected outputs)`` of every data set."""
        weights = {t.name for t in self.model.graph.initializer}
        names = [v.name for v in self.model.graph.input if v.name not in weights]
        raw = list(self.given) or list(self._stored())
        if any(len(inputs) > len(names) for inputs, _ in raw):  # old files feed their weights, too
            names = [v.name for v in self.model.graph.input]
        return [
            (dict(zip(names, map(_array, inputs), strict=False)), list(map(_array, wanted))) for inputs, wanted in raw
        ]

    def _stored(self) -> Iterator[DataSet]:
        if self.suite == "light":
            yield _light(Path(self.source), self.model)
            return
        for folder in sorted(Path(self.source).parent.glob("test_data_set*")):
            yield _read(folder, "input", self.model.graph.input), _read(folder, "output", self.model.graph.output)


def load(suites: tuple[str, ...] = SUITES) -> list[SuiteCase]:
    """Every case of the suites, in a fixed order."""
    from onnx.backend.test.loader import load_model_tests

    found: list[SuiteCase] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy overflows while ONNX generates its own cases
        kinds = {"node": ("node",), "stored": STORED}
        for suite in suites:
            for kind in kinds.get(suite, ()):
                found += [
                    SuiteCase(
                        suite, t.name, t.rtol, t.atol, t.model or f"{t.model_dir}/model.onnx", tuple(t.data_sets or ())
                    )
                    for t in load_model_tests(kind=kind)
                ]
            if suite == "light":
                files = sorted((DATA / "light").glob("*.onnx"))
                found += [SuiteCase(suite, f.stem.removeprefix("light_"), 1e-3, 1e-7, str(f)) for f in files]
    return found


def check(case: SuiteCase, wanted: list[Any], got: list[Any]) -> None:
    """Raise AssertionError where outputs are not those expected; the comparison is ONNX's own."""
    runner.Runner.assert_similar_outputs(wanted, got, rtol=case.rtol, atol=case.atol)


def _light(file: Path, model: onnx.ModelProto) -> DataSet:
    """The inputs that the outputs beside a light model were computed from: ONNX's counting numbers."""
    weights = {t.name for t in model.graph.initializer}
    inputs = [
        runner.Runner.generate_dummy_data(value, seed=0, name=file.stem, random=False)
        for value in model.graph.input
        if value.name not in weights
    ]
    outputs = [file.with_name(f"{file.stem}_output_{i}.pb") for i in range(len(model.graph.output))]
    return inputs, [onnx.numpy_helper.to_array(onnx.load_tensor(str(path))) for path in outputs]


def _read(folder: Path, stem: str, values: Any) -> list[Any]:
    files = sorted(folder.glob(f"{stem}_*.pb"), key=lambda p: int(p.stem.split("_")[-1]))
    return [_decoded(file.read_bytes(), value.type) for file, value in zip(files, values, strict=False)]


def _decoded(data: bytes, kind: onnx.TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _array(value: Any) -> Any:
    """Some generated cases hold TensorProtos, or NumPy scalars."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value
