"""What the recogniser reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Attention:
    """One attention structure.

    Attributes:
        kind: ``se``, ``eca``, ``cam``, ``sam``, ``cbam``, ``bam``, ``coordinate``, ``multiplicative`` or ``additive``.
        nodes: every node of the mechanism from the reductions (or scores) to the gate (or weights), by output name.
        gate: the value holding the mask (after the sigmoid) or the alignment weights (after the softmax); of two masks
            the one that comes later.
        features: the value that is gated, or the memory that is attended to.
        result: the value the mechanism produces.
        pools: reductions used, sorted: ``mean``, ``max``.
        channels: width C of the gated tensor where the graph tells it.
        reduction: C divided by the MLP's hidden width, for channel attention.
        kernel: kernel size of the spatial convolution, or of ECA's over the channels.
        parts: for ``cbam``, its channel and spatial halves.
        order: for ``cbam``, ``channel-first``, ``spatial-first`` or ``parallel``.
    """

    kind: str
    nodes: frozenset[str]
    gate: str
    features: str
    result: str
    pools: tuple[str, ...] = ()
    channels: int | None = None
    reduction: int | None = None
    kernel: tuple[int, ...] = ()
    parts: tuple[Attention, ...] = field(default=(), repr=False)
    order: str = ""

    def describe(self) -> str:
        """One line for a person."""
        facts = [f"{self.channels} channels" if self.channels else ""]
        facts += [f"reduction {self.reduction}" if self.reduction else ""]
        facts += [f"{'x'.join(map(str, self.kernel))} conv" if self.kernel else ""]
        facts += [f"pools {' + '.join(self.pools)}" if self.pools else ""]
        facts += [self.order if self.order != "channel-first" else ""]  # what CBAM means when nothing is said
        return ", ".join(f for f in facts if f)
