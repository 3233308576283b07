"""What the recogniser reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FAMILIES = {"luong": "multiplicative", "mha": "multiplicative", "bahdanau": "additive"}


@dataclass(frozen=True)
class Attention:
    """One attention structure. A field that does not belong to its kind, or that the graph does not tell, is empty.

    Attributes:
        kind: gates: ``se``, ``eca``, ``cam``, ``sam``, ``cbam``, ``bam``, ``coordinate``. Alignments: ``luong``,
            ``bahdanau``, ``pooling`` (weights that positions get without a query), ``mha`` (any number of heads).
        nodes: every node of the mechanism from the reductions (or scores) to the gate (or weights), by output name.
        gate: the value holding the mask (after the sigmoid) or the alignment weights (after the softmax); of two masks
            the one that comes later. For the Attention operator, its result.
        features: the value that is gated, or the memory (the values) that is attended to.
        result: the value the mechanism produces.
        module: the PyTorch module it is, ``layer3.0.cbam``, where the exporter left names.
        pools: reductions used, sorted: ``max``, ``mean``, ``min`` …
        channels: width C of the gated tensor.
        reduction: C divided by the MLP's hidden width, for channel attention.
        kernel: kernel size of the spatial convolution, or of ECA's over the channels.
        gate_function: ``sigmoid`` or ``hard-sigmoid``, however it is spelled.
        parts: for ``cbam``, its channel and spatial halves.
        order: for ``cbam``, ``channel-first``, ``spatial-first`` or ``parallel``.
        score: ``dot``, ``general``, ``concat`` (luong), ``additive`` (bahdanau, pooling), ``linear`` (pooling).
        query: the value that asks: the decoder's state, or the queries after their projection and split.
        keys: ``raw`` (the memory itself), ``inside`` (projected in this graph) or ``handed`` (made elsewhere).
        state: ``current`` where a cell of this graph made the query, ``previous`` where the cell comes after it.
        local: the weights are multiplied by a window around a predicted position (Luong's local-p).
        window: half the width of that window, where scores outside are masked.
        mask: how positions are hidden, ``where -inf``, ``where -1e9``, ``where finfo.min``, ``add -1e4``,
            ``add float`` (a value that is fed or computed), ``multiply``, ``operator``; of weights ``weights where 0``.
        heads: number of query heads. head_width: width of one.
        groups: number of key and value heads; fewer than ``heads`` for grouped queries.
        attends: ``self`` or ``cross``.
        causal: whether positions see no later ones by a mask that the graph makes itself.
        scale: where the scores are scaled: ``scores``, ``query``, ``keys``, ``both``, ``operator``; empty for nowhere.
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
    module: str = ""
    gate_function: str = ""
    score: str = ""
    query: str = ""
    keys: str = ""
    state: str = ""
    local: bool = False
    window: float | None = None
    mask: tuple[str, ...] = ()
    heads: int | None = None
    head_width: int | None = None
    groups: int | None = None
    attends: str = ""
    causal: bool | None = None
    scale: str = ""

    @property
    def family(self) -> str:
        """``gate``, ``multiplicative`` or ``additive``."""
        if self.kind == "pooling":
            return "additive" if self.score == "additive" else "multiplicative"
        return FAMILIES.get(self.kind, "gate")

    def facts(self) -> dict[str, Any]:
        """What is known beside kind, nodes and values, JSON-able, without what is empty."""
        plain = (
            "channels",
            "reduction",
            "kernel",
            "pools",
            "gate_function",
            "order",
            "score",
            "keys",
            "state",
            "local",
        )
        more = ("window", "heads", "head_width", "groups", "attends", "causal", "scale", "mask", "query", "module")
        found = {name: getattr(self, name) for name in (*plain, *more)}
        kept = {name: value for name, value in found.items() if value not in (None, "", ()) and value is not False}
        if self.kind == "mha" and self.causal is not None:
            kept["causal"] = self.causal
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def describe(self) -> str:
        """One line for a person."""
        facts = self._of_gate() if self.family == "gate" else self._of_alignment()
        return ", ".join(f for f in facts if f)

    def _of_gate(self) -> list[str]:
        return [
            f"{self.channels} channels" if self.channels else "",
            f"reduction {self.reduction}" if self.reduction else "",
            f"{'x'.join(map(str, self.kernel))} conv" if self.kernel else "",
            f"pools {' + '.join(self.pools)}" if self.pools else "",
            self.gate_function if self.gate_function == "hard-sigmoid" else "",
            self.order if self.order != "channel-first" else "",  # what CBAM means when nothing is said
        ]

    def _of_alignment(self) -> list[str]:
        width = f" of width {self.head_width}" if self.head_width else ""
        where = {"raw": "", "inside": "keys projected inside", "handed": "keys handed over", "": ""}
        return [
            f"{self.score} score" if self.score and self.kind != "mha" else "",
            f"{self.heads} head{'s' * (self.heads != 1)}{width}" if self.heads else "",
            f"{self.groups} key/value heads" if self.groups and self.groups != self.heads else "",
            self.attends,
            "causal" if self.causal else "",
            where.get(self.keys, "") if self.kind != "mha" else "",
            f"{self.state} state" if self.state else "",
            f"local, window {self.window:g}" if self.local and self.window else "local" if self.local else "",
            f"mask {' + '.join(self.mask)}" if self.mask else "",
            f"scaled on {self.scale}" if self.scale and self.scale != "operator" else "",
        ]
