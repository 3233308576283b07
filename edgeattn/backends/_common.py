"""What every backend needs: thread counts, one-file-per-graph saving, and the effective-precision summary."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Refusal
from edgeattn.errors import BadInput, EdgeattnError, EngineFailed, OutOfResources, printable
from edgeattn.program import TensorSpec

if TYPE_CHECKING:
    from edgeattn.backends import Options
    from edgeattn.program import Arrays, Program


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fewer_threads(options: Options) -> list[Mapping[str, Any]]:
    """One thread instead of several: small graphs lose more to handing work over than they gain."""
    return [{"threads": 1}] if (options.threads or usable_cores()) > 1 else []


def probe_package(package: str, extra: str) -> Availability:
    """Whether an engine's package imports, and its version. Never raises: a broken wheel is an answer too."""
    if importlib.util.find_spec(package) is None:
        return Availability(False, why="not installed", hint=f"pip install 'edgeattn[{extra}]'")
    try:
        version = str(importlib.import_module(package).__version__)
    except Exception as error:
        return Availability(False, why=first_line(error), hint=f"reinstall {package}")
    return Availability(True, version=version.split("-")[0])


def newer_opsets(program: Program, newest: int) -> list[Refusal]:
    """A refusal for every graph whose standard opset is above ``newest``."""
    return [
        Refusal(graph, "", f"opset {opset.version} is newer than {newest}", "export with --opset 18")
        for graph, model in program.graphs.items()
        for opset in model.opset_import
        if opset.domain in ("", "ai.onnx") and opset.version > newest
    ]


def first_line(error: BaseException) -> str:
    """The first meaningful line of an engine's exception text, so short that what follows it is read too."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0], 400) if lines else type(error).__name__


def precision_summary(executed: Iterable[tuple[str, str]], macs: Mapping[str, int]) -> dict[str, Any]:
    """Summarise the multiply-accumulate nodes an engine really executes.

    Args:
        executed: ``(node, precision)`` for every Conv, MatMul, Gemm or recurrent node in the executed graph; the
            node in the names of the graph the engine was given, as far as the engine kept them.
        macs: multiply-accumulates of that graph's nodes.

    Returns:
        ``label`` (what nine tenths of the work run in, else ``mixed``), ``counts`` of nodes per precision,
        ``macs`` in all and ``int8_macs`` among them. A node whose name the engine lost counts as not INT8.
    """
    nodes = list(executed)
    counts = Counter(precision for _, precision in nodes)
    total = sum(counts.values())
    label, most = counts.most_common(1)[0] if counts else ("n/a", 0)
    in_int8 = {name for name, precision in nodes if precision == "int8"}
    work, int8_work = sum(macs.values()), sum(count for name, count in macs.items() if name in in_int8)
    if work and int8_work >= 0.9 * work:
        label = "int8"
    elif most < 0.9 * total:
        label = "mixed"
    return {"label": label, "counts": dict(sorted(counts.items())), "macs": work, "int8_macs": int8_work}


def explain_failure(engine: str, error: Exception, inputs: tuple[TensorSpec, ...], feeds: Arrays) -> EdgeattnError:
    """Turn an engine's exception into ours: a feed that does not fit is the caller's, the rest is the engine's."""
    for spec in inputs:
        value = feeds.get(spec.name)
        if value is None:
            return BadInput(f"missing input '{spec.name}'", hint=f"expected {spec}")
        static = [(want, got) for want, got in zip(spec.shape, value.shape, strict=False) if isinstance(want, int)]
        if len(value.shape) != len(spec.shape) or any(want != got for want, got in static):
            return BadInput(f"input '{spec.name}' has shape {list(value.shape)}", hint=f"expected {spec}")
        if str(value.dtype) != spec.dtype:
            return BadInput(f"input '{spec.name}' is {value.dtype}", hint=f"expected {spec}")
    return refusal(engine, error)


def refusal(engine: str, error: Exception) -> EdgeattnError:
    """An engine's exception as ours: memory that ran out, or a graph it does not take."""
    text = str(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        wanted = re.search(r"requested buffer of size (\d+)", text)
        what = f"ran out of memory over a buffer of {wanted[1]} bytes" if wanted else "ran out of memory"
        return OutOfResources(what, where=engine, hint="use a smaller batch or model; EDGEATTN_MEMORY sets the limit")
    return EngineFailed(first_line(error), where=engine, hint="run `edgeattn inspect` on the ONNX, or export it again")


_NO_MEMORY = re.compile("bad_alloc|Failed to allocate memory|[Oo]ut of memory|[Cc]annot allocate memory")


def file_size(directory: Path, files: Iterable[str]) -> int:
    """Bytes of the named files together with their siblings of the same stem (``.xml`` + ``.bin``, external data)."""
    stems = {Path(f).stem for f in files}
    return sum(p.stat().st_size for p in directory.iterdir() if p.stem in stems or p.name.split(".")[0] in stems)
