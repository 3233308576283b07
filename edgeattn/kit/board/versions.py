"""What differs between the TensorRT versions that boards have: one row a version, one column a difference.

A board's JetPack fixes its TensorRT, and an engine is built by the very version that runs it; so a kit is made for one
row. Sources: the release notes of TensorRT 8.5 to 11.4 and of JetPack, and onnx-tensorrt's table of operators.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, NamedTuple

from .refusal import UNSUPPORTED, Refused

BOARD, RTX, REHEARSAL = "tensorrt", "tensorrt_rtx", "onnxruntime"


class Row(NamedTuple):
    """One version.

    Attributes:
        version: ``10.3``. opset: the newest ONNX opset that its parser reads.
        typed: a network may be strongly typed: it computes in the types the graph names, and nothing else. Before
            that, builder flags allowed FP16 and INT8, and the builder chose layer by layer.
        bf16: knows bfloat16.
        guards_code: engines that carry host code are refused unless somebody allows them; here nobody does.
        timing_cache: what was measured while building is kept for the next build.
        trtexec: what ``trtexec`` is told to build without running; and, where it is to be said, to type strongly.
    """

    version: str
    opset: int
    typed: bool
    bf16: bool
    guards_code: bool
    timing_cache: bool
    trtexec: tuple[str, ...]


ROWS: dict[str, Row] = {
    row.version: row
    for row in (
        Row("8.5", 17, False, False, False, True, ("--buildOnly",)),
        Row("8.6", 17, False, False, True, True, ("--skipInference",)),
        Row("10.3", 20, True, True, True, True, ("--skipInference", "--stronglyTyped")),
        Row("10.13", 20, True, True, True, True, ("--skipInference", "--stronglyTyped")),
        Row("10.16", 24, True, True, True, True, ("--skipInference", "--stronglyTyped")),
        Row("11.4", 24, True, True, True, True, ("--skipInference",)),  # it types strongly whatever it is told
    )
}
JETPACKS = {
    "jp5.1": "8.5",
    "jp6.0": "8.6",
    "jp6.1": "10.3",
    "jp6.2": "10.3",
    "jp7.1": "10.13",
    "jp7.2": "10.16",
    "jp7.2.2": "11.4",
}
_RTX = Row("1", 24, True, True, True, False, ())  # another product with numbers of its own, built for a compile check


def numbers(version: str) -> tuple[int, int]:
    """``10.3.0.30`` -> ``(10, 3)``."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def row_of(library: str, version: str) -> Row:
    """The row that a library of some version works by: its own, or the nearest one before it."""
    if library == RTX:
        return _RTX
    here = numbers(version)
    older = [row for row in ROWS.values() if numbers(row.version) <= here]
    if not older:
        hint = "take a board with JetPack 5.1 or later"
        raise Refused(UNSUPPORTED, f"TensorRT {version} is older than 8.5", hint=hint)
    return older[-1]


def load(library: str) -> Any:
    """Import an engine's package.

    Raises:
        Refused: it is not here, with where it comes from.
    """
    hints = {
        BOARD: "it comes with JetPack: sudo apt-get install python3-libnvinfer, and use the system's python3",
        RTX: "python3 -m pip install tensorrt_rtx_cu13",
        REHEARSAL: "python3 -m pip install onnxruntime",
    }
    try:
        return importlib.import_module(library)
    except ImportError as error:
        what = f"the Python package '{library}' cannot be imported ({error})"
        raise Refused(UNSUPPORTED, what, hint=hints[library]) from error


def check(library: str, found: str, kit: dict[str, Any], any_version: bool) -> None:
    """Refuse another TensorRT than the kit was made for, unless that is wanted; another product has other numbers."""
    wanted = kit["library"]["version"]
    if library != BOARD or any_version or numbers(found) == numbers(wanted):
        return
    what = "TensorRT {} is here, and this kit was made for {} ({})".format(found, wanted, kit["target"])
    raise Refused(UNSUPPORTED, what, hint="make a kit for this board's JetPack, or go on with --any-version")
