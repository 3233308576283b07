"""What a loop becomes as a step that is fed tokens: which value is the token, what is state, what each output holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from edgeattn.rewrite import _loop_outputs, _proto
from edgeattn.rewrite._loop_control import (
    LONGEST,
    Choices,
    Control,
    Greedy,
    Run,
    constants,
    never,
    samples,
    scripts,
)
from edgeattn.rewrite._loop_form import Carried, NoFit, Setting
from edgeattn.rewrite._loop_outputs import Given


@dataclass(frozen=True)
class Plan:
    """Everything that building needs.

    Attributes:
        tokens: values of the body that are the token, in some rank.
        forced: the program input that holds the tokens; empty where the loop chooses them.
        logits: what the next token is chosen from. states: what goes round. turn: whether the turn's number does.
    """

    setting: Setting
    tokens: tuple[str, ...]
    greedy: Greedy
    forced: str
    logits: str
    states: tuple[Carried, ...]
    turn: bool
    given: tuple[Given, ...]

    @property
    def wanted(self) -> list[str]:
        """Values that a step must compute."""
        return [self.logits, *(g.value for g in self.given if g.value), *(c.following for c in self.states)]


def make(model: onnx.ModelProto) -> Plan:
    """The plan of a graph whose decoder is a Loop or Scan.

    Raises:
        NoFit: the first thing in the way.
    """
    setting = Setting(model)
    logits = _logits(setting)
    states = tuple(c for c in setting.form.carried if c.inside not in setting.control and not setting.gathered(c))
    stepwise = {output: _loop_outputs.behind(setting, output) for output in (v.name for v in setting.graph.output)}
    values = [v for v in stepwise.values() if v and v not in setting.control]
    wanted = [*values, *(c.following for c in states), *([logits] if logits else [])]
    fed = sorted(_fed(setting, wanted))
    if not fed:
        raise NoFit("its decoder reads no token that goes round", setting.form.label, 3)
    token, others, greedy, forced = _token(setting, fed)
    counters, turn = _counters(setting, others)
    plan = Plan(setting, token, greedy, forced, logits, (*states, *counters), turn, ())
    given = tuple(_loop_outputs.find(plan.setting, plan.tokens, greedy, *item) for item in stepwise.items())
    if not logits:
        plan = replace(plan, logits=_scores(setting, token, given))
    if greedy.runs_on and not any(not g.value for g in given):
        raise NoFit("it runs on after every row has ended, and gives no tokens to tell when", setting.form.label, 5)
    return replace(plan, given=given)


def _logits(setting: Setting) -> str:
    """What the choice is made from; it must be over the last axis of (B, V) or (B, 1, V)."""
    if setting.choice is None:
        return ""
    name = str(setting.choice.input[0])
    dims = setting.dims(name)
    axis = next(
        (a.i for a in setting.choice.attribute if a.name == "axis"), 0 if setting.choice.op_type == "ArgMax" else -1
    )
    rank = len(dims or ())
    if dims is None or axis not in (-1, rank - 1) or not (rank == 2 or (rank == 3 and dims[1] == 1)):
        label = setting.choice.name or setting.choice.op_type
        raise NoFit(f"it chooses along axis {axis} of {dims}; expected the last of (batch, vocabulary)", label, 2)
    return name


def moving(setting: Setting) -> dict[str, frozenset[str]]:
    """Control values of the body that change from turn to turn, and the leaves that move them."""
    leaves = {setting.form.turn, setting.chosen, *(c.inside for c in setting.form.carried)}
    leaves |= set(setting.form.scanned.values())
    known = {name: frozenset({name}) for name in leaves - {""} if name in setting.control}
    for node in setting.body.node:
        behind = frozenset().union(*(known.get(n, frozenset()) for n in _proto.reads(node)))
        if behind and node is not setting.choice:
            known |= {o: behind for o in node.output if o in setting.control}
    return known


def decoder(setting: Setting, wanted: list[str], stop: set[str]) -> list[onnx.NodeProto]:
    """The body's nodes behind some values; the moving control in ``stop`` and what makes it stay outside."""
    return _proto.cone(setting.body.node, wanted, stop)


def _fed(setting: Setting, wanted: list[str]) -> set[str]:
    """Moving control values that the decoder reads."""
    steered = moving(setting)
    nodes = decoder(setting, wanted, set(steered))
    return {r for node in nodes for r in _proto.reads(node)} & set(steered)


def _token(setting: Setting, fed: list[str]) -> tuple[tuple[str, ...], list[str], Greedy, str]:
    """Which of the fed values are the token, which are not, the decode loop, and the input that forces tokens."""
    control = Control(setting, fed)
    why, near = "", 0
    for name in fed:
        try:
            greedy, forced = (_forced if not setting.chosen else _greedy)(setting, control, name)
        except NoFit as no:
            why = no.miss.reason if no.miss.near >= near else why
            near = max(near, no.miss.near)
            continue
        twins = [f for f in fed if _same(setting, control, f, name)]
        return tuple(twins), [f for f in fed if f not in twins], greedy, forced
    raise NoFit(why, setting.form.label, 4)


def _greedy(setting: Setting, control: Control, name: str) -> tuple[Greedy, str]:
    """The decode loop that feeds ``name`` as this loop does."""
    lengths, starts, cases = set(), set(), []
    for feeds, batch in samples(setting):
        free = control.run(feeds, never(setting, batch))
        if not free.fed:
            raise NoFit("it takes no turn", setting.form.label, 3)
        first = np.asarray(free.fed[0][name])
        if first.dtype != np.int64 or first.size != batch or first.shape[:1] != (batch,):
            raise NoFit(f"its decoder reads '{name}', {first.dtype}{list(first.shape)}: not int64 (batch,)", name, 3)
        lengths.add(len(free.fed))
        starts |= set(first.ravel().tolist())
        cases += [(feeds, batch, choose) for choose in scripts(setting, batch, len(free.fed))]
    if len(starts) != 1:
        raise NoFit(f"its first token is not one constant: {sorted(starts)}", setting.form.label, 4)
    if len(lengths) != 1:
        raise NoFit("its number of steps follows its inputs; a wiring holds one number", setting.form.label, 4)
    runs = [(control.run(feeds, choose), choose, batch) for feeds, batch, choose in cases]
    ends = [*constants(setting), -1]
    for loop in (Greedy(starts.copy().pop(), end, next(iter(lengths)), on) for on in (False, True) for end in ends):
        if all(_agrees(loop, name, run, choose, batch) for run, choose, batch in runs):
            return loop, ""
    raise NoFit(
        "it does not feed and stop as the decode loop does: the choice is fed back, a row that has ended is fed the "
        "end token, and the loop ends at a fixed number of steps or when every row has ended",
        setting.form.label,
        5,
    )


def _agrees(loop: Greedy, name: str, run: Run, choose: Choices, batch: int) -> bool:
    fed, _ = loop.decoded(choose, batch)
    theirs = [np.asarray(turn[name]).reshape(-1) for turn in run.fed]
    if len(theirs) < len(fed) or (len(theirs) > len(fed) and not loop.runs_on):
        return False
    same = all(np.array_equal(a, b) for a, b in zip(fed, theirs, strict=False))
    return same and all((tail == loop.end).all() for tail in theirs[len(fed) :])


def _forced(setting: Setting, control: Control, name: str) -> tuple[Greedy, str]:
    """The program input (batch, steps) whose columns the loop feeds one by one."""
    fitting: set[str] | None = None
    for feeds, batch in samples(setting):
        run = control.run(feeds, lambda turn: np.zeros(0))
        fed = [np.asarray(turn[name]).reshape(-1) for turn in run.fed]
        if not fed or any(f.size != batch or f.dtype != np.int64 for f in fed):
            raise NoFit(f"its decoder reads '{name}', which is no int64 (batch,)", name, 3)
        same = {n for n, v in feeds.items() if v.ndim == 2 and np.array_equal(v, np.stack(fed, axis=1))}
        fitting = same if fitting is None else fitting & same
    if not fitting:
        raise NoFit(f"its decoder reads '{name}', which is not fed back and is no input column by column", name, 4)
    (forced, *_) = sorted(fitting)
    length = (setting.dims(forced) or ["?", "?"])[1]
    return Greedy(0, -1, length if isinstance(length, int) else LONGEST), forced


def _same(setting: Setting, control: Control, a: str, b: str) -> bool:
    """Whether two fed values hold the same numbers at every turn of every script."""
    for feeds, batch in samples(setting):
        for choose in scripts(setting, batch, 4)[:3] if setting.chosen else [never(setting, batch)]:
            for turn in control.run(feeds, choose).fed:
                x, y = np.asarray(turn[a]), np.asarray(turn[b])
                if x.dtype != np.int64 or x.ndim > 2 or x.size != batch or not np.array_equal(x.ravel(), y.ravel()):
                    return False
    return True


def _counters(setting: Setting, others: list[str]) -> tuple[list[Carried], bool]:
    """Control that the decoder reads beside the token: counters, which become states."""
    steered, form = moving(setting), setting.form
    by_inside = {c.inside: c for c in form.carried}
    found: dict[str, Carried] = {}
    turn, queue = False, [leaf for name in others for leaf in steered[name]]
    while queue:
        leaf = queue.pop()
        if leaf == form.turn:
            turn = True
        elif leaf in by_inside and leaf not in found:
            found[leaf] = by_inside[leaf]
            queue += steered.get(by_inside[leaf].following, ())
        elif leaf not in found:
            raise NoFit("its decoder reads the token in more than one form", leaf, 4)
    return list(found.values()), turn


def _scores(setting: Setting, tokens: tuple[str, ...], given: tuple[Given, ...]) -> str:
    """Of a loop that chooses nothing, the output that scores the vocabulary of the table its token looks up."""
    tables = [n.input[0] for n in setting.body.node if n.op_type == "Gather" and n.input[1] in tokens]
    rows = {(setting.dims(t) or ["?"])[0] for t in tables}
    fitting = [g.value for g in given if g.value and (d := setting.dims(g.value)) and len(d) == 2 and d[1] in rows]
    if len(set(fitting)) != 1:
        raise NoFit("it chooses no token, and no single output scores the vocabulary that its token indexes", "", 5)
    return fitting[0]
