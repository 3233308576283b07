"""Where the time of an engine goes: a section of the report, and what ``edgeattn explain-latency --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from edgeattn.report.values import Figure, Value

Figures = Mapping[str, Figure]


class NodeTime(Value):
    """One node that the engine executes.

    Attributes:
        graph: of the program. node: in the names of the user's graph. op, kernel: as the engine calls them.
        precision: what it computes in. milliseconds: of one run of the program. share: of that run.
        macs: multiply-accumulates with stored weights, of one call.
        module: the PyTorch module. origin: nodes before any rewrite that it stands for.
        attention: the attention it belongs to; empty outside.
    """

    graph: str
    node: str
    op: str
    precision: str
    kernel: str = ""
    milliseconds: Figure = None
    share: Figure = None
    macs: int = 0
    module: str = ""
    origin: tuple[str, ...] = ()
    attention: str = ""


class Cause(Value):
    """Something that costs time beside the work that was asked for.

    Attributes:
        cause: ``float-layers``, ``unfused-layers``, ``layout``, ``quantize-passes``, ``conversions``, ``attention``,
            ``other-nodes`` or ``between-nodes``.
        why: what it is, and why it is there. do: what may be done about it.
        milliseconds, share: what it costs of one run. count: of nodes.
        nodes, modules: the costliest by name, and the PyTorch modules they are in.
        macs_share: of the multiply-accumulates, for layers.
    """

    cause: str
    why: str
    do: str
    milliseconds: Figure = None
    share: Figure = None
    count: int = 0
    nodes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    macs_share: Figure = None


class TimeReport(Value):
    """One run of the program under the engine's own profiler.

    Attributes:
        total_ms: median of ``runs`` runs without the profiler. threads: the engine's.
        kinds: milliseconds by what nodes do; they sum to the total. modules: milliseconds by PyTorch module.
        attention: milliseconds by attention block. attention_share: of all together.
        macs_in: share of the multiply-accumulates by the precision they ran in.
        nodes: by time, the costliest. causes: by the time they cost. warnings: what is worth knowing beside.
    """

    total_ms: Figure = None
    runs: int = 0
    threads: int = 0
    isa: tuple[str, ...] = ()
    kinds: Figures = Field(default_factory=dict)
    modules: Figures = Field(default_factory=dict)
    attention: Figures = Field(default_factory=dict)
    attention_share: Figure = None
    macs_in: Figures = Field(default_factory=dict)
    nodes: tuple[NodeTime, ...] = ()
    causes: tuple[Cause, ...] = ()
    warnings: tuple[str, ...] = ()


class Ship(Value):
    """What a paired measurement says to ship.

    Attributes:
        ship: ``int8``, ``fp32`` or ``bf16``; empty where it could not tell. why: in words.
        milliseconds: median of each. speedup: of INT8 over each float program.
    """

    ship: str = ""
    why: str = ""
    milliseconds: Figures = Field(default_factory=dict)
    speedup: Figures = Field(default_factory=dict)
