"""The sections of a recipe: what is asked of each stage, as frozen and checked values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from edgeattn.profile import Span, parse_span
from edgeattn.recipe._shapes import Dynamic, Shape

Names = Annotated[tuple[str, ...], Field(strict=False)]
Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Export(Section):
    """How a model becomes ONNX; ``shapes`` (as ``1x16:int64``) and ``dynamic`` are for users' own modules.

    ``inputs`` is an ``.npz`` of real inputs, one of the cases that every stage is judged on.
    """

    opset: Annotated[int, Field(ge=17, le=20)] = 18
    shapes: Mapping[str, Shape] = {}
    dynamic: Dynamic = ()
    inputs: Name | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Export:
        if self.shapes and self.inputs:
            raise ValueError("'shapes' and 'inputs' exclude each other; keep 'inputs', whose arrays say their shapes")
        return self


class Rewrite(Section):
    """Which rules run: all but ``skip``, or ``only`` those named.

    ``measure``: rules that help on one engine and hurt on another are timed on the target, and stay where they make the
    program faster in the precision it is built in. Off, the same recipe gives the same graph on every machine; in INT8
    those that pay there on every engine (a recurrent cell as one Gemm) are applied all the same.
    ``fix`` gives dynamic dimensions the size that the engine is built for, such as ``{batch: 1}``.
    """

    skip: Names = ()
    only: Names = ()
    measure: bool = True
    fix: Mapping[Name, Annotated[int, Field(ge=1, lt=2**31)]] = {}

    @model_validator(mode="after")
    def _one_of(self) -> Rewrite:
        if self.skip and self.only:
            raise ValueError("'skip' and 'only' exclude each other; keep one")
        return self


class Quantize(Section):
    """How a lower precision is reached.

    ``gate``: attention gates in ``float``, in ``int8``, or as ``auto`` measures on the target. ``keep`` names node or
    module patterns that stay in float, ``ranges`` how a range follows from the calibration data: ``calib``, as
    ``edgeattn quantize --calib`` takes it (by default the task), at most ``samples`` of it, and ``pixels`` of a folder
    of images. ``max_drop`` (a share of the metric), ``sqnr`` (dB) and ``minutes`` are the budget of a scheme that
    searches.
    """

    scheme: Name = "int8-static"
    gate: Literal["float", "int8", "auto"] = "float"
    ranges: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    calib: Name | None = None
    pixels: Name | None = None
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    keep: Names = ()
    max_drop: Share | None = None
    sqnr: Positive | None = None
    minutes: Positive | None = None


class Buckets(Section):
    """Fixed lengths to build for in place of a dynamic one: ``sizes``, or a ``count`` of them chosen for a file of
    ``lengths`` met in use (LENGTH, or LENGTH COUNT, a line), so that the least is padded.
    """

    sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(strict=False, max_length=32)] = ()
    lengths: Name | None = None
    count: Annotated[int, Field(ge=1, le=32)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Buckets:
        if bool(self.sizes) == (self.lengths is not None) or (self.lengths is None) != (self.count is None):
            raise ValueError("give 'sizes', or 'lengths' with 'count'")
        return self


def _span(text: object) -> Span:
    return parse_span(text)


Profiles = Annotated[
    tuple[Mapping[Name, Annotated[Span, BeforeValidator(_span)]], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value),
    Field(strict=False),
]


class Latency(Section):
    """How long to measure; ``threads`` 0 means the physical cores this process may use."""

    pairs: Annotated[int, Field(ge=20, le=1_000_000)] = 300
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


class Gates(Section):
    """What must hold for the verdict ``pass``; null switches a gate off.

    Attributes:
        precision: the engine runs in what was asked for (see edgeattn.report.gates): most of the multiply-accumulates
            in INT8, FP16 or BF16, or the share that ``int8_share`` asks for; none in a half precision of FP32.
        parity: no parity verdict after the last stage is ``fail``.
        task_drop: by how much the engine's metric is worse than PyTorch's, absolute, is at most this.
        task_min: the engine's metric is at least this. task_max: at most, for one where lower is better (perplexity).
        agreement: share of test samples on which engine and PyTorch predict the same is at least this.
        speedup: the lower 95 % bound of median(reference / engine) is at least this.
        int8_share: share of the multiply-accumulates that really run in INT8 is at least this.
        size_ratio: engine bytes over reference bytes is at most this.
    """

    precision: bool = True
    parity: bool = True
    task_drop: NotNegative | None = None
    task_min: NotNegative | None = None
    task_max: Positive | None = None
    agreement: Share | None = None
    speedup: Positive | None = None
    int8_share: Share | None = None
    size_ratio: Positive | None = None
