"""Runs a program on its open engines: one graph once, or an encoder and then a step for every token that is forced.

Which output feeds which input is data (``wiring`` in kit.json), as edgeattn keeps it: ``feeds`` is handed to the step
once, ``state`` by the step to itself; a state that nothing hands over starts at zero.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

import numpy as np

Array = Any
Arrays = Dict[str, Any]


class Executor:
    """One open engine.

    Attributes:
        inputs: ``{"name", "dtype", "shape"}`` of each, as in kit.json.
    """

    inputs: list[dict[str, Any]]

    def run(self, feeds: Arrays) -> Arrays:
        """Outputs by name."""
        raise NotImplementedError


def run(engines: Mapping[str, Executor], wiring: dict[str, Any] | None, feeds: Arrays, tokens: Array | None) -> Arrays:
    """A program's outputs; of a wired one each step's on a new first axis, and of what grows the last.

    Args:
        engines: by graph. wiring: None for one graph. feeds: program inputs.
        tokens: ``(batch, steps)`` int64, forced one by one; None for one graph.
    """
    if wiring is None or tokens is None:
        (engine,) = engines.values()
        return engine.run(_selected(engine, feeds))
    stop = wiring["stop"]
    loop, token = stop["token"].split(".", 1)
    once: Arrays = {}
    for name, engine in engines.items():
        if name != loop:
            given = {**feeds, **_wired(name, wiring["feeds"], once)}
            once.update({f"{name}.{k}": v for k, v in engine.run(_selected(engine, given)).items()})
    step = engines[loop]
    fixed = {**feeds, **_wired(loop, wiring["feeds"], once)}
    state = _first_state(step, loop, wiring["state"], fixed)
    outputs = []
    for column in np.asarray(tokens).T:
        outputs.append(step.run(_selected(step, {**fixed, **state, token: np.ascontiguousarray(column)})))
        state = {_tensor(to): outputs[-1][_tensor(source)] for to, source in wiring["state"].items()}
    first = {stop["first"]: once[stop["first"]]} if stop.get("first") else {}
    return {**first, **_stacked(outputs)}


def _first_state(step: Executor, loop: str, edges: Mapping[str, str], fixed: Arrays) -> Arrays:
    batch = len(next(iter(fixed.values())))
    state = {}
    for spec in step.inputs:
        if "{}.{}".format(loop, spec["name"]) in edges:
            shape = [size if isinstance(size, int) else batch for size in spec["shape"]]
            known = fixed.get(spec["name"])
            state[spec["name"]] = np.zeros(shape, spec["dtype"]) if known is None else known
    return state


def _wired(graph: str, edges: Mapping[str, str], values: Arrays) -> Arrays:
    return {_tensor(to): values[at] for to, at in edges.items() if to.split(".", 1)[0] == graph and at in values}


def _selected(engine: Executor, feeds: Arrays) -> Arrays:
    return {spec["name"]: feeds[spec["name"]] for spec in engine.inputs}


def _stacked(outputs: list[Arrays]) -> Arrays:
    stacked = {}
    for name in outputs[0] if outputs else ():
        values = [given[name] for given in outputs]
        stacked[name] = np.stack(values) if len({value.shape for value in values}) == 1 else values[-1]
    return stacked


def _tensor(end: str) -> str:
    return end.split(".", 1)[1]
