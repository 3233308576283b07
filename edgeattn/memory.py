"""How much memory there is, and whether a program could ever fit into it."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.errors import OutOfResources, UsageError, printable

if TYPE_CHECKING:
    from edgeattn.program import Program


def asked_for() -> int | None:
    """``EDGEATTN_MEMORY`` in bytes, 0 for no limit; None where it is not set.

    Raises:
        UsageError: it is no size.
    """
    text = os.environ.get("EDGEATTN_MEMORY", "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,12})([KMGT]?)(i?B)?", text, re.IGNORECASE | re.ASCII)
    if found is None:
        hint = "give a size like 4G or 512M, or 0 for no limit"
        raise UsageError(f"'{printable(text, 40)}' is no size", where="EDGEATTN_MEMORY", hint=hint)
    return int(found[1]) * int(1024 ** " KMGT".index(found[2].upper() or " "))


def free() -> int:
    """Bytes free in this machine or container; 0 where the system does not tell."""
    known = [size for size in (_available(), _container()) if size]
    return min(known, default=0)


def _available() -> int:
    with contextlib.suppress(OSError, ValueError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0


def _container() -> int:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            return int(Path("/sys/fs/cgroup", name).read_text())
    return 0


def _amount(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size < 2**60 else "over 10^18 bytes"


def assert_fits(program: Program) -> None:
    """Refuse a program that makes a single value larger than memory, before an engine tries.

    Only shapes that can be inferred count, with every dynamic dimension at its typical size.

    Raises:
        OutOfResources: names the graph, the node and the shape.
    """
    from edgeattn import graphs

    limit = asked_for()
    limit = free() if limit is None else limit
    if not limit:
        return
    for graph, model in program.graphs.items():
        makers = {output: node.op_type for node in model.graph.node for output in node.output}
        for name, shape, dtype in graphs.typical_values(model):
            maker = makers.get(name, "input")
            size = math.prod(shape) * _bytes_an_element(shape, dtype, maker)
            if size > limit:
                value = f"'{printable(name, 80)}' ({maker}, {'x'.join(map(str, shape))})"
                raise OutOfResources(
                    f"{value} needs {_amount(size)}, more than the {_amount(limit)} there are",
                    where=f"graph '{graph}'" if len(program.graphs) > 1 else "",
                    hint="use smaller sizes; EDGEATTN_MEMORY sets the limit",
                )


def _bytes_an_element(shape: list[int], dtype: str, maker: str) -> int:
    vector = len(shape) == 1 and maker != "input"
    unrolled = vector and (dtype in ("int64", "int32") or maker in ("ConstantOfShape", "Range"))
    return _UNROLLED if unrolled else int(re.sub(r"\D", "", dtype) or 8) // 8  # "bool" is a byte


_UNROLLED = 256  # bytes; shape inference takes a vector that may be a shape apart, number by number


def held() -> int | None:
    """Bytes that this process holds; the count of its peak starts again here (Linux; man 5 proc_pid_clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _counted("VmRSS")


def grown(before: int | None) -> int | None:
    """By how much the process's memory grew at most since ``held`` gave ``before``; None where that is not known."""
    peak = _counted("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def _counted(key: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None
