"""What parity asks of an output: named limits per precision, and overrides per output.

    rewrite   |y − x| ≤ atol 1e-5 + rtol 1e-4·|x|, or, where float64 values exist, an error against them of at most
              twice the reference's own plus 1e-6: a sum that cancels may move further than rtol·|x| and be no worse.
    fp32      error against float64 ≤ max(1e-4, 3 × FP32's own error): PyTorch's, or what a unit in the last place of
              every weight makes where that is more. Engines fold BatchNorms and so round weights anew; on an input
              to which a network is that sensitive PyTorch may come closer by luck, never by merit.
    fp16      SQNR ≥ 40 dB.     bf16: SQNR ≥ 30 dB.
    int8      SQNR ≥ 30 dB passes, 20–30 dB warns, below 20 dB or cosine < 0.997 fails.

Absolute tolerances hold for outputs of ordinary size. FP32 resolves 6e-8 of a value's magnitude, so for large outputs
each absolute tolerance grows to 1e-6 of the output's largest magnitude (about 8 units in the last place): the 1e-4 of
``fp32`` from magnitude 100 on, the 1e-5 of ``rewrite`` from 10 on.

At every precision NaN and ±Inf must sit in the same places, and integers and booleans are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgeattn.errors import UsageError, printable

FP32_RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True)
class Limits:
    """What an output must meet; every criterion that is not None must hold.

    Attributes:
        name: printed beside the verdict.
        atol, rtol: elementwise ``|y − x| ≤ atol + rtol·|x|``.
        second_opinion: with float64 values, an output past atol/rtol passes if its error against them is at most
            this factor times the reference's own, plus 1e-6.
        golden_floor, golden_factor: error against float64 ≤ max(floor, factor × the reference's own error).
        sqnr_db: pass at or above. sqnr_fail_db: fail below; between the two is a warning.
        cosine: fail below.
        calibrated: the signal is judged on inputs like those it was calibrated on (cases named ``real…``, else
            ``normal…``); other cases are told, and fail only through NaN or Inf.
        outputs: limits of single outputs, by name.
    """

    name: str
    atol: float | None = None
    rtol: float = 0.0
    second_opinion: float | None = None
    golden_floor: float | None = None
    golden_factor: float = 0.0
    sqnr_db: float | None = None
    sqnr_fail_db: float | None = None
    cosine: float | None = None
    calibrated: bool = False
    outputs: Mapping[str, Limits] = field(default_factory=dict)

    @classmethod
    def rewrite(cls) -> Limits:
        """A rewritten FP32 graph against its source in the same runtime."""
        return cls("rewrite", atol=1e-5, rtol=1e-4, second_opinion=2.0)

    @classmethod
    def fp32(cls) -> Limits:
        """An FP32 engine against PyTorch."""
        return cls("fp32", golden_floor=1e-4, golden_factor=3.0)

    @classmethod
    def fp16(cls) -> Limits:
        """An FP16 engine against PyTorch FP32."""
        return cls("fp16", sqnr_db=40.0, sqnr_fail_db=40.0)

    @classmethod
    def bf16(cls) -> Limits:
        """A BF16 engine against PyTorch FP32."""
        return cls("bf16", sqnr_db=30.0, sqnr_fail_db=30.0)

    @classmethod
    def int8(cls) -> Limits:
        """An INT8 engine against PyTorch FP32."""
        return cls("int8", sqnr_db=30.0, sqnr_fail_db=20.0, cosine=0.997, calibrated=True)

    @classmethod
    def of(cls, precision: str) -> Limits:
        """The limits of ``rewrite``, ``fp32``, ``fp16``, ``bf16`` or ``int8``; raises UsageError for another word."""
        known = {"rewrite": cls.rewrite, "fp32": cls.fp32, "fp16": cls.fp16, "bf16": cls.bf16, "int8": cls.int8}
        if precision not in known:
            raise UsageError(
                f"no parity limits for precision '{printable(precision, 40)}'", hint=f"known: {', '.join(known)}"
            )
        return known[precision]()

    def override(self, *, atol: Iterable[str] = (), rtol: Iterable[str] = (), sqnr: Iterable[str] = ()) -> Limits:
        """Limits with options such as ``y:1e-3`` (one output) or ``1e-3`` (all others) put in.

        An output given ``atol`` or ``rtol`` is judged elementwise by them alone, one given ``sqnr`` by SQNR alone, one
        given both by both.

        Raises:
            UsageError: not a number, negative, or not finite.
        """
        asked: dict[str, dict[str, float]] = {}
        for key, options in (("atol", atol), ("rtol", rtol), ("sqnr_db", sqnr)):
            for option in options:
                output, value = _option(key, option)
                asked.setdefault(output, {})[key] = value
        everywhere = _only(asked.pop("", {}), self)
        singles = {name: _only(values, everywhere) for name, values in asked.items()}
        return replace(everywhere, outputs={**self.outputs, **singles})

    def for_output(self, name: str) -> Limits:
        """The limits one output is judged by."""
        return self.outputs.get(name, self)

    def __str__(self) -> str:
        said = []
        if self.atol is not None:
            said.append(f"|error| ≤ {self.atol:g} + {self.rtol:g}·|ref|")
        if self.golden_floor is not None:
            said.append(f"error against float64 ≤ max({self.golden_floor:g}, {self.golden_factor:g} × FP32's own)")
        if self.sqnr_db is not None:
            warns = self.sqnr_fail_db is not None and self.sqnr_fail_db < self.sqnr_db
            said.append(f"SQNR ≥ {self.sqnr_db:g} dB" + (f" (fails < {self.sqnr_fail_db:g})" if warns else ""))
        if self.cosine is not None:
            said.append(f"cosine ≥ {self.cosine:g}")
        return ", ".join(said) or "NaN and Inf in the same places"


def _only(values: Mapping[str, float], base: Limits) -> Limits:
    if not values:
        return base
    elementwise = "atol" in values or "rtol" in values
    return Limits(
        name="asked",
        atol=values.get("atol", 0.0) if elementwise else None,
        rtol=values.get("rtol", 0.0),
        sqnr_db=values.get("sqnr_db"),
        sqnr_fail_db=values.get("sqnr_db"),
        calibrated=base.calibrated,
    )


def _option(key: str, option: str) -> tuple[str, float]:
    # The value is after the last colon: tensor names may hold colons ("y:0:1e-3").
    output, _, text = option.rpartition(":")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        flag = key.removesuffix("_db")
        raise UsageError(
            f"'{printable(option, 80)}' is not a tolerance", where=f"--{flag}", hint=f"give --{flag} 1e-3, or y:1e-3"
        )
    return output, value
