"""nncf: NNCF's post-training quantization of the OpenVINO model, led by our policy.

What: NNCF places and calibrates the FakeQuantize nodes; which nodes it leaves alone is our policy's, handed over as its
IgnoredScope, so that attention gates, Softmax and narrow layers stay float as in int8-static.
Why: who is at home with NNCF gets its quantizer without its blind spot for attention gates. The result is OpenVINO IR
and runs there only; int8-static is the scheme whose one file every engine takes.
Scales: NNCF's own ranges, bias correction included; wired programs are calibrated on what each graph is fed while a
sequence is decoded.
Stays float: gates, layers narrower than 16 channels, Softmax, LayerNorm, anything under ``--keep``.
Source: NNCF post-training quantization, https://github.com/openvinotoolkit/nncf.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeattn import decode, registry
from edgeattn.errors import BadInput, MissingPackage, UsageError
from edgeattn.phase import native
from edgeattn.program import Case, Opener, Program, Session, TensorSpec
from edgeattn.quantize import Quantized, Scheme, Settings, attention_policy

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays
    from edgeattn.quantize import Policy

MOST_FEEDS = 1000
"""Of one graph: a decoder step is fed once a token."""


class Nncf(Scheme):
    """The scheme; see the module docstring."""

    name = "nncf"
    precision = "int8"
    limits = "int8"
    calibrated = True
    targets = ("openvino",)

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """The float graphs with their quantized IR beside them (``Program.ir``).

        Raises:
            MissingPackage: no NNCF, or no OpenVINO. UsageError: a range method, which NNCF has its own of.
        """
        if settings.ranges != "minmax":
            raise UsageError("NNCF sets ranges by its own method", where="ranges", hint="leave it out")
        with _silent():
            tool = _nncf()
            feeds, samples = _recorded(program, opener, data)
            decided = {g: attention_policy(m, settings.gate, settings.keep) for g, m in program.graphs.items()}
            ir = {g: _quantized(tool, m, feeds[g], decided[g]) for g, m in program.graphs.items()}
        notes = {
            "samples": samples,
            "tool": f"nncf {tool.__version__}",
            "kept_float": {name: why for d in decided.values() for name, why in d.floats.items()},
            "attention": [f"{a.kind}: {a.describe()}" for d in decided.values() for a in d.attention],
        }
        return replace(program, ir=ir), notes


def _nncf() -> Any:
    """NNCF, once the backends have told the telemetry that it shares with OpenVINO to keep still."""
    registry.get("backends", "openvino")
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise MissingPackage("nncf", "nncf") from error
    return nncf


@contextlib.contextmanager
def _silent() -> Any:
    """NNCF prints progress bars and logs; ours is the only progress."""
    logger = logging.getLogger("nncf")
    before, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.disabled = before


class _Recorder:
    """A session that keeps what it is fed."""

    def __init__(self, session: Session, kept: list[dict[str, Array]]) -> None:
        self._session, self._kept = session, kept
        self.inputs: tuple[TensorSpec, ...] = session.inputs
        self.outputs: tuple[TensorSpec, ...] = session.outputs

    def run(self, feeds: Arrays) -> dict[str, Array]:
        if len(self._kept) < MOST_FEEDS:
            self._kept.append({spec.name: feeds[spec.name] for spec in self.inputs})
        return self._session.run(feeds)


def _recorded(program: Program, opener: Opener, data: Iterable[Case]) -> tuple[dict[str, list[dict[str, Array]]], int]:
    """What each graph is fed while the calibration data runs through the float program, and how many samples."""
    feeds: dict[str, list[dict[str, Array]]] = {graph: [] for graph in program.graphs}
    sessions = {graph: _Recorder(session, feeds[graph]) for graph, session in opener(program).items()}
    samples = 0
    for case in data:
        decode.run(sessions, program.wiring, case.feeds, case.tokens)
        samples += len(next(iter(case.feeds.values())))
    if not samples:
        raise BadInput("no calibration sample", hint="give real data: a task, or --calib with at least one sample")
    return feeds, samples


def _quantized(tool: Any, model: Any, feeds: list[dict[str, Array]], decided: Policy) -> tuple[bytes, bytes]:
    engine = registry.get("backends", "openvino")
    scope = tool.IgnoredScope(**decided.ignored_scope())
    heads = any(a.kind == "mha" for a in decided.attention)
    kind = tool.ModelType.TRANSFORMER if heads else None
    with native("NNCF", "quantizing the graph"):
        made = tool.quantize(
            engine.thaw(model), tool.Dataset(feeds), subset_size=len(feeds), ignored_scope=scope, model_type=kind
        )
    frozen: tuple[bytes, bytes] = engine.freeze(made)
    return frozen


SCHEME = Nncf()
