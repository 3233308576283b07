"""What a rewrite rule is: a name, a declared exactness, a match that can say why not, and a rewrite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Arrays, Program
    from edgeattn.rewrite._build import Build
    from edgeattn.rewrite._sizes import Sample


@dataclass(frozen=True)
class Exactness:
    """How far a rule may move numbers, declared beside the rule.

    Attributes:
        kind: ``bit-exact``, ``allclose`` (float addition is reordered) or ``conditional`` (equal where ``condition``
            holds; the numbers check on the reference cases decides).
        atol: absolute limit, times max(1, largest magnitude of the expected output).
        rtol: relative limit.
        condition: what must hold, in words.
        mends_nan: expected NaN may become finite (the rule defines what was undefined).
    """

    kind: str
    atol: float = 0.0
    rtol: float = 0.0
    condition: str = ""
    mends_nan: bool = False


BIT_EXACT = Exactness("bit-exact")
ALLCLOSE = Exactness("allclose", atol=1e-5, rtol=1e-4)


@dataclass(frozen=True)
class View:
    """The surroundings of a node.

    Attributes:
        graph: the graph's name. opset: the opset it is written in. producer: who exported it.
        samples: every value's shape at several concrete input sizes; computed when first asked for.
        places: where each node stands in its graph; nodes that were made since are not in it.
    """

    graph: str
    opset: int
    producer: str
    samples: Callable[[], list[Sample]] = list
    places: Callable[[], Mapping[ir.Node, int]] = dict


@dataclass(frozen=True)
class Choice:
    """Whether a measured rule's result stays.

    Attributes:
        keep: it was faster. target: where it was measured, as ``onnxruntime:cpu``.
        speedup: median of before / after; None where it could not be measured. ci95: its 95 % interval.
        why: the verdict in words.
    """

    keep: bool
    target: str
    speedup: float | None = None
    ci95: tuple[float | None, float | None] = (None, None)
    why: str = ""

    def __str__(self) -> str:
        low, high = self.ci95
        seen = "" if low is None or high is None else f" {self.speedup:.3f}x ({low:.3f} to {high:.3f})"
        return f"{self.target}{seen}: {self.why}"


@dataclass(frozen=True)
class Match:
    """A place where a rule applies.

    Attributes:
        anchor: the last node of the pattern; new nodes go in front of it.
        nodes: every node that the new ones stand for.
        parts: what ``rewrite`` needs: values, arrays, attributes.
    """

    anchor: ir.Node
    nodes: tuple[ir.Node, ...]
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Miss:
    """Why a rule did not fire although its first node was there.

    Attributes:
        reason: one clause, with what was found.
        culprit: the node that broke the pattern.
        near: how many pattern nodes were recognised before; larger is nearer.
        anchor: the node where the search began, ``graph`` the graph it lies in, and ``module`` the PyTorch module the
            culprit came from, where the graph tells it; filled in by the frame.
    """

    reason: str
    culprit: str
    near: int
    anchor: str = ""
    graph: str = ""
    module: str = ""

    def __str__(self) -> str:
        return f"{self.culprit}: {self.reason}"


@dataclass(frozen=True)
class Look:
    """What a rule would do to a program after the rules before it.

    Attributes:
        rule: its name. fires: how often it would.
        misses: where it would not and why, nearest first.
        failed: what it raised; empty as a rule.
    """

    rule: str
    fires: int
    misses: tuple[Miss, ...]
    failed: str = ""


def miss(reason: str, culprit: ir.Node | None, near: int) -> Miss:
    """A Miss that names its culprit by node name, or by its first output where the node has no name."""
    if culprit is None:
        return Miss(reason, "(graph input)", near)
    return Miss(reason, culprit.name or culprit.outputs[0].name or culprit.op_type, near)


class Rule(ABC):
    """What every rule declares; ``name`` is the file stem."""

    name: ClassVar[str]
    exactness: ClassVar[Exactness]
    opsets: ClassVar[tuple[int, int]] = (11, 26)
    restores: ClassVar[bool] = False  # judged by PyTorch's outputs, because the source graph is what is wrong
    measured: ClassVar[bool] = False  # stays only where a paired measurement on the target shows it faster
    reshapes: ClassVar[bool] = False  # other graphs, seen otherwise from outside: applied only where it is asked for
    suggests: ClassVar[bool] = False  # of a rule that reshapes: say where it would fit, though it was not asked for

    @abstractmethod
    def examples(self) -> list[Program]:
        """The smallest programs on which the rule fires."""

    @abstractmethod
    def near_misses(self) -> list[Program]:
        """Programs that look alike and on which it must not fire."""

    def workload(self) -> Program:
        """A program of realistic size with static input shapes, on which the rule's benefit is measured."""
        return self.examples()[0]


class GraphRule(Rule):
    """A rule that looks at one node and its neighbours."""

    anchors: ClassVar[tuple[str, ...]]

    @abstractmethod
    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """A Match, a Miss that explains itself, or None where ``node`` has nothing to do with the pattern."""

    @abstractmethod
    def rewrite(self, match: Match, build: Build) -> None:
        """Build the new nodes and put them in the old ones' place."""


@dataclass(frozen=True)
class Outcome:
    """What a program rule did: the new graphs and wiring, how often it fired, and where it nearly did.

    A rule that reshapes a program also says how the old form and the new one are compared.

    Attributes:
        program: the result; a reshaping rule asks its cases as the new form takes them.
        count, misses: how often it fired, and where it nearly did.
        before: the old form with the same cases as that takes them; None where they are what they were.
        retold: what the old form gave, as the new form gives it; None where it is the same.
        note: what a user must know about the new form.
    """

    program: Program
    count: int
    misses: tuple[Miss, ...] = ()
    before: Program | None = None
    retold: Callable[[Arrays], Arrays] | None = None
    note: str = ""


class ProgramRule(Rule):
    """A rule that needs a whole program: several graphs, or a tool that takes a file."""

    @abstractmethod
    def apply(self, program: Program) -> Outcome:
        """Return the changed program; ``program`` itself is not edited."""


def as_programs(*models: onnx.ModelProto) -> list[Program]:
    """Single-graph programs, for the examples of graph rules."""
    from edgeattn.program import Program

    return [Program({"main": model}) for model in models]
