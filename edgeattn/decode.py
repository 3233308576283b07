"""The one decode loop: runs a Program's open sessions by its wiring, whatever the engine.

Nothing here knows an engine or a model; it needs numpy and the wiring, so the runtime on the device and the
harness on the bench execute the same code.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput
from edgeattn.program import Session, Stateful, Wiring

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

Sessions = Mapping[str, Session]


def run(
    sessions: Sessions,
    wiring: Wiring | None,
    feeds: Arrays,
    tokens: Array | None = None,
    outputs: Collection[str] | None = None,
) -> dict[str, Array]:
    """Run a whole program once.

    Args:
        sessions: graph name -> open session.
        wiring: None for a single graph.
        feeds: program inputs by name.
        tokens: ``(batch, steps)`` int64 to force (teacher forcing); None decodes greedily.
        outputs: the graph's or step's outputs to return, all by default. What is not asked for, such as a state, is
            not copied out of an engine that can leave it there.

    Returns:
        A single graph's outputs; for a wired program every step output stacked on a new axis 0
        ``(steps, batch, …)``, and ``tokens`` ``(batch, steps)`` int64 when decoding greedily.
        A sequence that has ended is padded with the end token. Where another graph predicts the first token
        (``stop.first``), its prediction is an output under that name, and ``tokens`` begins with that token; neither
        has to be asked for. Of a step output that grows from step to step only the last is returned; a state that
        the engine keeps (:class:`edgeattn.program.Stateful`) is returned where tokens are forced.
    """
    if wiring is None:
        (session,) = sessions.values()
        asked = _asked(session, None, outputs)
        found = session.run(_select(session, feeds))
        return found if asked is None else {name: found[name] for name in asked}
    asked = _asked(sessions[wiring.loop], wiring, outputs)
    return (
        _greedy(sessions, wiring, feeds, asked) if tokens is None else _forced(sessions, wiring, feeds, tokens, asked)
    )


def _asked(session: Session, wiring: Wiring | None, outputs: Collection[str] | None) -> frozenset[str] | None:
    """The outputs asked for, None for all; each must be one that the session gives, or a state that it keeps."""
    if outputs is None:
        return None
    states = [_tensor(origin) for origin in wiring.state.values()] if wiring is not None else []
    names = dict.fromkeys([*(spec.name for spec in session.outputs), *states])
    for name in outputs:
        if name not in names:
            raise BadInput(f"there is no output '{name}' to give", hint=f"known: {', '.join(names)}")
    return frozenset(outputs)


def _forced(
    sessions: Sessions, wiring: Wiring, feeds: Arrays, tokens: Array, asked: frozenset[str] | None
) -> dict[str, Array]:
    once = _once(sessions, wiring, feeds)
    loop = _steps(sessions, wiring, feeds, once, asked, whole=True)
    next(loop)
    return {**_first(wiring, once), **_stack([_lasting(loop.send(column), asked) for column in tokens.T])}


def _greedy(sessions: Sessions, wiring: Wiring, feeds: Arrays, asked: frozenset[str] | None) -> dict[str, Array]:
    stop = wiring.stop
    emits = _tensor(stop.emits)
    once = _once(sessions, wiring, feeds)
    batch = len(next(iter(feeds.values())))
    token = np.full(batch, stop.start, np.int64)
    done = np.zeros(batch, bool)
    emitted, outputs = [], []
    first = _first(wiring, once)
    if first:
        token = first[stop.first].argmax(-1).astype(np.int64)
        emitted.append(token)
        done |= token == stop.end
    loop = _steps(sessions, wiring, feeds, once, None if asked is None else asked | {emits})
    next(loop)
    while len(emitted) < stop.max_steps and not done.all():
        out = loop.send(token)
        token = np.where(done, stop.end, out[emits].argmax(-1)).astype(np.int64)
        outputs.append(_lasting(out, asked))
        emitted.append(token)
        done |= token == stop.end
    return {**first, **_stack(outputs), "tokens": np.stack(emitted, axis=1)}


def _once(sessions: Sessions, wiring: Wiring, feeds: Arrays) -> dict[str, Array]:
    """Outputs ``"graph.output"`` of the graphs that run before the first step."""
    once: dict[str, Array] = {}
    for name, session in sessions.items():
        if name != wiring.loop:
            wired = _wired(name, wiring.feeds, once)
            once |= {f"{name}.{k}": v for k, v in session.run(_select(session, {**feeds, **wired})).items()}
    return once


def _first(wiring: Wiring, once: Arrays) -> dict[str, Array]:
    """What predicts the first token, by its edge end; nothing where decoding begins with the start token."""
    return {wiring.stop.first: once[wiring.stop.first]} if wiring.stop.first else {}


def _steps(
    sessions: Sessions,
    wiring: Wiring,
    feeds: Arrays,
    once: Arrays,
    read: frozenset[str] | None,
    whole: bool = False,
) -> Generator[dict[str, Array], Array, None]:
    """A coroutine: send it a token ``(batch,)``, it runs one step and yields that step's outputs.

    A state that the engine keeps is among them where they are to be ``whole``: reading it costs a copy a step.
    Where only some are ``read``, others may be missing, and those stay as they are until the next step only.
    """
    step = sessions[wiring.loop]
    fixed = {**feeds, **_wired(wiring.loop, wiring.feeds, once)}
    state = _initial_state(step, wiring, fixed)
    kept = None
    if isinstance(step, Stateful):
        step = sequence = step.begin(state)
        kept, state = sequence.kept if whole else None, {}
    explicit = [edge for edge in wiring.state.items() if _tensor(edge[0]) in state]
    token_name = _tensor(wiring.stop.token)
    if (hold := getattr(step, "hold", None)) is not None:  # an engine on a device keeps there what comes back to it
        unchanging = {spec.name for spec in step.inputs} - state.keys() - {token_name}
        step = hold({_tensor(t): _tensor(s) for t, s in wiring.state.items()}, frozenset(unchanging), read)
    out: dict[str, Array] = {}
    while True:
        token = yield out
        out = step.run(_select(step, {**fixed, **state, token_name: token}))
        state |= {_tensor(target): out[_tensor(source)] for target, source in explicit if _tensor(source) in out}
        if kept is not None:
            out |= kept()


def _lasting(out: dict[str, Array], asked: frozenset[str] | None) -> dict[str, Array]:
    """What of a step's outputs is returned, in arrays that later steps leave alone."""
    return out if asked is None else {name: np.array(value) for name, value in out.items() if name in asked}


def _initial_state(step: Session, wiring: Wiring, fixed: Arrays) -> dict[str, Array]:
    """States the encoder hands over, and zeros (sized by the batch) for the rest."""
    batch = len(next(iter(fixed.values())))
    state: dict[str, Array] = {}
    for spec in (*step.inputs, *(step.states if isinstance(step, Stateful) else ())):
        if f"{wiring.loop}.{spec.name}" in wiring.state:
            shape = [d if isinstance(d, int) else batch for d in spec.shape]
            state[spec.name] = fixed[spec.name] if spec.name in fixed else np.zeros(shape, spec.dtype)
    return state


def _wired(graph: str, edges: Mapping[str, str], values: Arrays) -> dict[str, Array]:
    return {_tensor(t): values[s] for t, s in edges.items() if t.split(".", 1)[0] == graph and s in values}


def _select(session: Session, feeds: Arrays) -> dict[str, Array]:
    missing = [str(spec) for spec in session.inputs if spec.name not in feeds]
    if missing:
        raise BadInput(f"missing input {', '.join(missing)}", hint=f"given: {', '.join(feeds) or 'nothing'}")
    return {spec.name: feeds[spec.name] for spec in session.inputs}


def _stack(outputs: list[dict[str, Array]]) -> dict[str, Array]:
    """Every step's outputs on a new axis 0; of one that grows, such as a KV cache, the last, which holds them all."""
    stacked = {}
    for name in outputs[0] if outputs else ():
        values = [o[name] for o in outputs]
        stacked[name] = np.stack(values) if len({v.shape for v in values}) == 1 else values[-1]
    return stacked


def _tensor(edge_end: str) -> str:
    return edge_end.split(".", 1)[1]
