"""What steers a loop, read by running it: without the decoder, on scripted choices, beside edgeattn's decode loop.

However a loop spells its counter, its mask of ended rows and its end (and exporters spell each in a dozen ways), it is
a small program over integers. It is run here operator by operator with the decoder's choices made up, and must feed
the tokens and stop when ``decode.run`` would: that is what it means to be the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from edgeattn.rewrite import _proto
from edgeattn.rewrite._loop_form import NoFit, Setting

Choices = Callable[[int], np.ndarray[Any, Any]]

LONGEST = 2048  # turns that a loop is followed for; what goes on longer has no bound that is seen from here
NEVER = 1 << 40  # a token that no program mentions


class Cone:
    """Some values of a graph as a function of others, run by ONNX's reference implementation."""

    def __init__(
        self, setting: Setting, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str], given: set[str]
    ) -> None:
        self.wanted = list(dict.fromkeys(wanted))
        kept = _proto.cone([n for n in nodes if not set(n.output) & given], self.wanted, given)
        free = {r for n in kept for r in _proto.reads(n)} | set(self.wanted)
        free -= {o for n in kept for o in n.output}
        self.given = sorted(free & given)
        graph = onnx.GraphProto(name="cone")
        for name in sorted(free - given):
            array = setting.constant(name)
            if array is None:
                raise NoFit(f"what steers it reads '{name}', which the decoder computes", setting.form.label, 3)
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        graph.node.extend(kept)
        graph.input.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in self.given)
        graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in self.wanted)
        imports = [onnx.helper.make_opsetid("", setting.opset)]
        self.run_ = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run if kept else None

    def __call__(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The wanted values."""
        if self.run_ is None:
            return {name: values[name] for name in self.wanted}
        return dict(zip(self.wanted, self.run_(None, {n: values[n] for n in self.given}), strict=True))


@dataclass
class Run:
    """One run of the control.

    Attributes:
        fed: what every turn's decoder read of the control, by name. made: every control value asked for, per turn.
        finals: the control that went round, after the last turn, by its name inside.
    """

    fed: list[dict[str, Any]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    finals: dict[str, Any] = field(default_factory=dict)


class Control:
    """The steering of one loop, for one set of program inputs.

    Args:
        setting: the graph. feeds: program inputs. fed: control values that the decoder reads.
        asked: further control values wanted of every turn.
    """

    def __init__(self, setting: Setting, fed: Sequence[str], asked: Sequence[str] = ()) -> None:
        self.setting, self.fed, form = setting, list(fed), setting.form
        self.carried = [c for c in form.carried if c.inside in setting.control]
        self.asked = list(asked)
        wanted = [*self.fed, *self.asked, *(c.following for c in self.carried), *([form.again] if form.again else [])]
        leaves = {form.turn, form.flag, setting.chosen, *(c.inside for c in self.carried), *setting.steering}
        leaves |= {inside for outside, inside in form.scanned.items() if outside in setting.steering}
        self.turn = Cone(setting, setting.body.node, wanted, leaves - {""})
        self.outside = Cone(setting, setting.graph.node, sorted(setting.steering), set(setting.inputs))

    def run(self, feeds: Mapping[str, Any], choices: Choices) -> Run:
        """Follow the loop until it ends.

        Raises:
            NoFit: it does not end.
        """
        form, result = self.setting.form, Run()
        steering = self.outside(feeds) if self.outside.wanted else {}
        state = {c.inside: self._outer(c.first, steering) for c in self.carried}
        scanned = {inside: steering[outside] for outside, inside in form.scanned.items() if outside in steering}
        trips = int(np.ravel(self._outer(form.trips, steering))[0]) if form.trips else LONGEST + 1
        if scanned:
            trips = len(next(iter(scanned.values())))
        going = bool(np.ravel(self._outer(form.going, steering))[0]) if form.going else True
        number = 0
        while going and number < trips:
            if number == LONGEST:
                raise NoFit(f"it goes on after {LONGEST} turns: its number of steps has no bound", form.label, 4)
            values = {**steering, **state, form.turn: np.int64(number), form.flag: np.bool_(True)}
            values |= {inside: value[number] for inside, value in scanned.items()}
            if self.setting.chosen:
                values[self.setting.chosen] = choices(number)
            out = self.turn(values)
            result.fed.append({name: out[name] for name in self.fed})
            result.made.append(out)
            state = {c.inside: out[c.following] for c in self.carried}
            going = bool(np.ravel(out[form.again])[0]) if form.again else True
            number += 1
        result.finals = state
        return result

    def _outer(self, name: str, steering: Mapping[str, Any]) -> Any:
        if name in steering:
            return steering[name]
        array = self.setting.constant(name)
        if array is None:
            raise NoFit(f"what steers it begins with '{name}', which is costly to compute", self.setting.form.label, 3)
        return array


@dataclass(frozen=True)
class Greedy:
    """The decode loop that a Loop is: see :class:`edgeattn.program.Stop`; ``runs_on``: it does not stop early."""

    start: int
    end: int
    max_steps: int
    runs_on: bool = False

    def decoded(self, choices: Choices, batch: int) -> tuple[list[Any], list[Any]]:
        """Tokens fed and tokens emitted, as ``decode.run`` has them."""
        token, done = np.full(batch, self.start, np.int64), np.zeros(batch, bool)
        fed: list[Any] = []
        emitted: list[Any] = []
        while len(emitted) < self.max_steps and not done.all():
            fed.append(token)
            token = np.where(done, self.end, choices(len(emitted)).reshape(batch)).astype(np.int64)
            emitted.append(token)
            done |= token == self.end
        return fed, emitted


def samples(setting: Setting) -> Iterator[tuple[dict[str, Any], int]]:
    """Program inputs of two sizes, and how many rows they hold: every symbol has a size of its own."""
    for number, sizes in enumerate(((2, 3, 5, 7, 11), (3, 4, 6, 8, 9))):
        rng, feeds = np.random.default_rng(number), {}
        known: dict[str, int] = {}
        for name in setting.inputs:
            shape = []
            for d in setting.dims(name) or []:
                if isinstance(d, str):
                    known.setdefault(d, sizes[min(len(known), len(sizes) - 1)])
                shape.append(d if isinstance(d, int) else known[d])
            kind = setting.types[name].tensor_type.elem_type
            if not kind or setting.dims(name) is None:
                raise NoFit(f"input '{name}' is no tensor of known rank", name, 1)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
            feeds[name] = rng.integers(0, 2, shape).astype(dtype)
        first = feeds[setting.inputs[0]] if setting.inputs else np.zeros(())
        yield feeds, len(first) if first.ndim else 0


def scripts(setting: Setting, batch: int, turns: int) -> list[Choices]:
    """Choices made up: never the end, at once, one row after another, and at random among all numbers in the loop."""
    rng = np.random.default_rng(0)
    numbers = [*constants(setting), NEVER, NEVER + 1]
    drawn = [rng.choice(numbers, (turns, batch)) for _ in range(6)]
    for number in numbers:
        late = np.full((turns, batch), NEVER)
        for row in range(batch):
            late[min(row, turns - 1) :, row] = number
        drawn.append(late)
    return [_choices(setting, table) for table in drawn]


def never(setting: Setting, batch: int) -> Choices:
    """No row ever ends."""
    return _choices(setting, np.full((1, batch), NEVER))


def _choices(setting: Setting, table: np.ndarray[Any, Any]) -> Choices:
    rank = len(setting.dims(setting.chosen) or [0])

    def choose(turn: int) -> np.ndarray[Any, Any]:
        row: np.ndarray[Any, Any] = table[min(turn, len(table) - 1)].astype(np.int64)
        return row.reshape([-1, *[1] * (rank - 1)])

    return choose


def constants(setting: Setting) -> list[int]:
    """Single integers that the body or what leads to it mentions: the end token is among them."""
    names = {n for node in (*setting.body.node, *setting.graph.node) for n in _all_inputs(node)}
    found = set()
    for name in names | set(setting.maker) | set(setting.outer_maker):
        array = setting.constant(name)
        if array is not None and array.size == 1 and array.dtype.kind == "i":
            found.add(int(array.reshape(-1)[0]))
    for node in setting.body.node:
        if node.op_type == "ConstantOfShape":
            found |= {int(np.ravel(onnx.numpy_helper.to_array(a.t))[0]) for a in node.attribute}
    return sorted(n for n in found if 0 <= n < NEVER)


def _all_inputs(node: onnx.NodeProto) -> set[str]:
    return set(node.input) | _proto.reads(node)
