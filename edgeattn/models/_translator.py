"""What the recurrent translators share: two wired graphs, and the cases every later stage is judged on.

    encoder   src, src_mask                             -> memory, the first values of some states
    step      token, memory, src_mask, *states          -> logits, alignment, *states as ``NAME_out``

The memory is handed over once, the states after every step; a state that the encoder does not give starts at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Stop, TensorSpec, Wiring

Lengths = np.ndarray[tuple[int], np.dtype[np.int64]]

_TRIES = 100  # draws of one case; the last is taken, fair or not


class Translator(nn.Module):
    """An encoder and a decoder step as above, and what the decode loop and the cases have to know about them.

    Args:
        vocabularies: number of source and of target tokens. stop: how decoding begins and ends.
        max_source: longest source that ``cases`` draws; the graphs take any.
        memory_size: E, width of the memory ``(B, S, E)``.
        states: name -> shape without the batch, in the order the step takes them.
        handed: the states whose first value the encoder gives, in the order it gives them.
    """

    encoder: nn.Module
    step: nn.Module

    def __init__(
        self,
        vocabularies: tuple[int, int],
        stop: Stop,
        max_source: int,
        memory_size: int,
        states: Mapping[str, tuple[int, ...]],
        handed: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.vocabularies, self.stop, self.max_source = vocabularies, stop, max_source
        self.memory_size, self.states, self.handed = memory_size, states, handed

    def fair(self, case: Case) -> bool:
        """Whether two correct engines must agree on a case; ``cases`` draws one that is not fair again."""
        return True


def stop_at(start: int, end: int, max_steps: int) -> Stop:
    """How a translator's loop begins and ends."""
    return Stop("step.token", "step.logits", start, end, max_steps)


def valid_lengths(src_mask: torch.Tensor) -> torch.Tensor:
    """How many positions of each row are valid: mask ``(B, S)``, True on a prefix of each row, to ``(B,)`` int64."""
    return src_mask.long().sum(1)


def source(net: Translator) -> Source:
    """The two graphs, how they feed each other, and their cases."""
    mask = TensorSpec("src_mask", "bool", ("batch", "source"))
    encoder = GraphSource(net.encoder, (TensorSpec("src", "int64", ("batch", "source")), mask), ("memory", *net.handed))
    inputs = (
        TensorSpec("token", "int64", ("batch",)),
        TensorSpec("memory", "float32", ("batch", "source", net.memory_size)),
        mask,
        *(TensorSpec(name, "float32", ("batch", *shape)) for name, shape in net.states.items()),
    )
    step = GraphSource(net.step, inputs, ("logits", "alignment", *(f"{name}_out" for name in net.states)))
    wiring = Wiring(
        feeds={f"step.{name}": f"encoder.{name}" for name in ("memory", *net.handed)},
        state={f"step.{name}": f"step.{name}_out" for name in net.states},
        stop=net.stop,
    )
    return Source({"encoder": encoder, "step": step}, wiring, lambda seed: cases(net, seed))


def cases(net: Translator, seed: int) -> Sequence[Case]:
    """Seeded sources and forced tokens: plain, length 1 and maximum, ragged, fully masked, one repeated token."""
    rng = np.random.default_rng(seed)
    longest = net.max_source
    lengths = {
        "normal-b1": [longest // 2],
        "normal-b2": [longest // 2, longest // 2],
        "length-1": [1, 1],
        "length-max": [longest, longest],
        "ragged": [longest // 2, 1, longest // 4 + 1],
        "masked-row": [longest // 2, 0],
        "repeated-token": [longest // 2, longest // 2],
    }
    return [_fair_case(net, rng, name, np.array(rows)) for name, rows in lengths.items()]


def _fair_case(net: Translator, rng: np.random.Generator, name: str, lengths: Lengths) -> Case:
    for _ in range(_TRIES):
        case = _case(net, rng, name, lengths)
        if net.fair(case):
            break
    return case


def _case(net: Translator, rng: np.random.Generator, name: str, lengths: Lengths) -> Case:
    batch, longest, steps = len(lengths), max(int(lengths.max()), 1), min(net.stop.max_steps, 6)
    src = rng.integers(0, net.vocabularies[0], (batch, longest))
    if name == "repeated-token":
        src[:] = src[0, 0]
    tokens = rng.integers(0, net.vocabularies[1], (batch, steps))
    tokens[:, 0] = net.stop.start
    mask = np.arange(longest) < lengths[:, None]
    return Case(name, {"src": src, "src_mask": mask}, tokens)
