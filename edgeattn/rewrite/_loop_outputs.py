"""What each output of a graph with a loop holds: the tokens, or every step's value stacked, found by letting it gather.

Exporters gather steps as scan outputs, by Concat, in sequences, or in buffers written by position. Whatever adds up a
value is run on made-up steps; what comes out must be those steps, stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgeattn.rewrite import _proto
from edgeattn.rewrite._loop_control import Cone, Control, Greedy, Run, never, samples, scripts
from edgeattn.rewrite._loop_form import Carried, NoFit, Setting

TOKENS = "tokens"
Told = Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Given:
    """One graph output as the decode loop gives it.

    Attributes:
        name: what the source calls it. value: the body's value of every step; empty for the tokens.
        told: the source's array as the decode loop stacks it. change: how that differs, in words.
    """

    name: str
    value: str
    told: Told
    change: str = ""


def behind(setting: Setting, output: str) -> str:
    """The body's value behind a graph output, one a step.

    Raises:
        NoFit: the output does not come from the loop alone.
    """
    form = setting.form
    made = set(form.node.output) - {""}
    behind = _proto.cone(setting.graph.node, [output], made)
    leaves = ({r for n in behind for r in _proto.reads(n)} | {output}) - {o for n in behind for o in n.output}
    foreign = [n for n in sorted(leaves - made) if setting.constant(n) is None]
    if foreign:
        hint = "a program of steps gives what every step gives"
        raise NoFit(f"output '{output}' is made from '{foreign[0]}' outside the loop; {hint}", output, 4)
    sources = leaves & made
    stacked = {outside: inside for inside, outside in form.stacked}
    values = set()
    for source in sources:
        if source in stacked:
            values.add(_base(setting, stacked[source]))
            continue
        carried = next(c for c in form.carried if c.last == source)
        values |= _leaves(setting, carried, output)
    if len(values) != 1:
        raise NoFit(f"output '{output}' mixes {len(values)} values of a step", output, 4)
    return values.pop()


def _base(setting: Setting, value: str) -> str:
    """A value before it was only reshaped for stacking."""
    node = setting.maker.get(value)
    while node is not None and node.op_type in ("Unsqueeze", "Identity") and value not in setting.control:
        value = node.input[0]
        node = setting.maker.get(value)
    return value


def _leaves(setting: Setting, carried: Carried, output: str) -> set[str]:
    """What every step adds to a gathered value; the value itself where it is control."""
    if carried.inside in setting.control:
        return {carried.inside}
    nodes = setting.gathered(carried)
    if nodes is None:
        hint = "a program of steps gives every step's, under its own name"
        raise NoFit(f"output '{output}' is the state after the last step; {hint}", output, 4)
    inside = {carried.inside, *(o for n in nodes for o in n.output)}
    read = {r for n in nodes for r in _proto.reads(n)} - inside
    return {_base(setting, r) for r in read if setting.constant(r) is None and r not in setting.control}


def find(setting: Setting, tokens: tuple[str, ...], loop: Greedy, output: str, value: str) -> Given:
    """What an output holds, found by letting the loop gather made-up steps."""
    if value in setting.control:
        return _find_tokens(setting, loop, output)
    if output == TOKENS:
        raise NoFit(f"output '{output}' holds something else than the tokens, which go by that name", output, 4)
    arrays, whole = _gather(setting, tokens, output, value)
    forms: list[tuple[Any, Told, str]] = [
        (np.stack(arrays), lambda v: v, ""),
        (np.stack(arrays, axis=1), lambda v: np.moveaxis(v, 1, 0), "steps on axis 0, was 1"),
    ]
    if arrays[0].ndim > 1 and arrays[0].shape[1] == 1:
        joined = np.concatenate(arrays, axis=1)
        forms.append(
            (joined, lambda v: np.moveaxis(v, 1, 0)[:, :, None], "steps on a new axis 0, was joined on axis 1")
        )
    for expected, told, change in forms:
        if np.array_equal(whole, expected):
            return Given(output, value, told, f"'{output}' has its {change}" if change else "")
    raise NoFit(f"output '{output}' is not every step's value, stacked: {np.shape(whole)} in all", output, 5)


def _gather(setting: Setting, tokens: tuple[str, ...], output: str, value: str) -> tuple[list[Any], Any]:
    """Made-up values of every step, and what the graph's output makes of them."""
    form = setting.form
    feeds, batch = next(samples(setting))
    adding = [(c, nodes) for c in form.carried if (nodes := setting.gathered(c))]
    steering = sorted({r for _, nodes in adding for n in nodes for r in _proto.reads(n)} & setting.control)
    run = Control(setting, tokens, steering).run(feeds, never(setting, batch))
    arrays = _made_up(setting, value, len(run.made))
    finals: dict[str, Any] = {}
    for inside, outside in form.stacked:
        if _base(setting, inside) == value:
            shape = Cone(setting, setting.body.node, [inside], {value})
            finals[outside] = np.stack([shape({value: a})[inside] for a in arrays])
    for carried, _nodes in adding:
        if value in _leaves(setting, carried, output):
            finals[carried.last] = _gathered(setting, carried, value, arrays, run, feeds)
    return arrays, Cone(setting, setting.graph.node, [output], set(finals))(finals)[output]


def _gathered(
    setting: Setting, carried: Carried, value: str, arrays: list[Any], run: Run, feeds: dict[str, Any]
) -> Any:
    """A gathered value after the last step."""
    state = Cone(setting, setting.graph.node, [carried.first], set(setting.inputs))(feeds)[carried.first]
    add = Cone(setting, setting.body.node, [carried.following], {carried.inside, value, *setting.control})
    for array, made in zip(arrays, run.made, strict=True):
        state = add({**made, carried.inside: state, value: array})[carried.following]
    return state


def _made_up(setting: Setting, value: str, steps: int) -> list[Any]:
    dims = setting.dims(value)
    if dims is None:
        raise NoFit(f"the rank of '{value}' is not known", value, 4)
    kind = onnx.helper.tensor_dtype_to_np_dtype(setting.types[value].tensor_type.elem_type)
    shape = [d if isinstance(d, int) else 2 + i for i, d in enumerate(dims)]
    rng = np.random.default_rng(0)
    return [(100 * rng.standard_normal(shape)).astype(kind) for _ in range(steps)]


def _find_tokens(setting: Setting, loop: Greedy, output: str) -> Given:
    """An output made of control alone must be the tokens, in one of the layouts that are in use."""
    runs = list(_runs(setting, loop, output))
    for told, change in _layouts(loop):
        if all(np.array_equal(told(whole), emitted) for whole, emitted in runs):
            renamed = f"'{output}' is now '{TOKENS}'" if output != TOKENS else f"'{TOKENS}'" if change else ""
            return Given(output, "", told, ", ".join(filter(None, (renamed, change))))
    raise NoFit(f"output '{output}' is not the tokens that were fed back, one a step", output, 5)


def _layouts(loop: Greedy) -> Iterator[tuple[Told, str]]:
    """The source's array as ``tokens`` (batch, steps)."""

    def cut(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ended = (v == loop.end).any(axis=1)
        return v[:, : int((v == loop.end).argmax(axis=1).max()) + 1] if ended.all() and v.size else v

    padded = "ends where every row has ended"
    yield lambda v: v, ""
    yield lambda v: v.T, "(batch, steps), was (steps, batch)"
    yield lambda v: v[:, 1:], "without the start token"
    yield cut, padded
    yield lambda v: cut(v.T), f"(batch, steps), was (steps, batch), and {padded}"


def _runs(setting: Setting, loop: Greedy, output: str) -> Iterator[tuple[Any, Any]]:
    """What the graph gives and what the decode loop emits, script by script."""
    form = setting.form
    control = Control(setting, (), [inside for inside, _ in form.stacked if inside in setting.control])
    finals = [c.last for c in control.carried if c.last] + [o for i, o in form.stacked if i in setting.control and o]
    tail = Cone(setting, setting.graph.node, [output], set(finals))
    for feeds, batch in samples(setting):
        for choose in scripts(setting, batch, loop.max_steps):
            run = control.run(feeds, choose)
            values = {c.last: run.finals[c.inside] for c in control.carried}
            values |= {o: np.stack([m[i] for m in run.made]) for i, o in form.stacked if i in setting.control}
            whole = np.asarray(tail(values)[output])
            if whole.ndim != 2 or whole.dtype != np.int64:
                raise NoFit(f"output '{output}' is {whole.dtype}{list(whole.shape)}, not tokens", output, 4)
            yield whole, np.stack(loop.decoded(choose, batch)[1], axis=1)
