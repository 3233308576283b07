"""ONNX Runtime without graph optimisation, and seeded cases, for judging rewrites."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime

from edgeattn.program import Case, Program, Reference, TensorSpec

SIZES = ({"batch": 1, "s": 4, "source": 4, "h": 6, "w": 5}, {"batch": 3, "s": 7, "source": 7, "h": 4, "w": 9})


class PlainSession:
    """A Session over ONNX Runtime with every optimisation off."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = tuple(_spec(v) for v in self._session.get_inputs())
        self.outputs = tuple(_spec(v) for v in self._session.get_outputs())

    def run(self, feeds):
        names = [o.name for o in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))


def open_plain(program: Program) -> dict[str, PlainSession]:
    return {name: PlainSession(model) for name, model in program.graphs.items()}


def draw_cases(program: Program, seed: int = 0) -> Program:
    """The program with two seeded cases of different sizes; wired programs get three forced tokens."""
    sessions = open_plain(program)
    cases = []
    for number, sizes in enumerate(SIZES):
        rng = np.random.default_rng(seed + number)
        wired = set() if program.wiring is None else {*program.wiring.feeds, *program.wiring.state}
        feeds = {
            spec.name: _draw(spec, sizes, rng)
            for graph, session in sessions.items()
            for spec in session.inputs
            if f"{graph}.{spec.name}" not in wired
        }
        tokens = None if program.wiring is None else rng.integers(0, 5, (sizes["batch"], 3))
        cases.append(Case(f"draw-{number}", feeds, tokens))
    return replace(program, reference=Reference("source graph", tuple(cases)))


def _draw(spec: TensorSpec, sizes, rng):
    shape = [d if isinstance(d, int) else sizes.get(d, 3) for d in spec.shape]
    if spec.dtype == "bool":
        drawn = rng.random(shape) < 0.6
        drawn[..., 0] = True
        return drawn
    if spec.dtype.startswith("int"):
        return rng.integers(0, 5, shape).astype(spec.dtype)
    if spec.name.startswith("keep"):
        return (rng.random(shape) < 0.6).astype(spec.dtype)
    return rng.standard_normal(shape).astype(spec.dtype)


def _spec(value) -> TensorSpec:
    dtype = {"tensor(float)": "float32", "tensor(double)": "float64"}.get(value.type, value.type[7:-1])
    return TensorSpec(value.name, dtype, tuple(d if d is not None else "n" for d in value.shape))
