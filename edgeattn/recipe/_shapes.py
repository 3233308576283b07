"""Shapes and dynamic axes as people write them: ``1x16:int64``, ``x:0=batch``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from edgeattn.errors import did_you_mean, printable
from edgeattn.program import INPUT_DTYPES, TensorSpec


def parse_spec(name: str, text: object) -> TensorSpec:
    """``"1x16:int64"`` -> ``TensorSpec(name, "int64", (1, 16))``; float32 where no type is said.

    Raises:
        ValueError: not positive integers joined by ``x``, or an unknown type.
    """
    dims, colon, dtype = _shape(text).partition(":")
    return TensorSpec(name, dtype if colon else "float32", tuple(int(d) for d in dims.split("x")))


def _shape(text: object) -> str:
    joined = "x".join(map(str, text)) if isinstance(text, list | tuple) else str(text)
    dims, colon, dtype = joined.partition(":")
    if not all(re.fullmatch(r"[1-9][0-9]{0,11}", d) for d in dims.split("x")):
        raise ValueError("expected positive integers joined by 'x', like 1x3x224x224 or 1x16:int64")
    if colon and dtype not in INPUT_DTYPES:
        raise ValueError(f"unknown type '{printable(dtype, 40)}' ({did_you_mean(dtype, INPUT_DTYPES)})")
    return joined


def parse_dynamic(text: object) -> tuple[str, int, str]:
    """``"x:0=batch"`` -> ``("x", 0, "batch")``: axis 0 of input ``x`` is dynamic and named ``batch``.

    Raises:
        ValueError: not of that form.
    """
    match = re.fullmatch(r"(.+):([0-9]{1,2})=([A-Za-z_][A-Za-z0-9_]*)", text) if isinstance(text, str) else None
    if not match:
        raise ValueError("expected INPUT:AXIS=NAME, like x:0=batch")
    return match[1], int(match[2]), match[3]


def _dynamic(text: object) -> object:
    parse_dynamic(text)
    return text


Shape = Annotated[str, BeforeValidator(_shape)]
Dynamic = Annotated[tuple[Annotated[str, BeforeValidator(_dynamic)], ...], Field(strict=False)]
