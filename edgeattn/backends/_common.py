"""What every backend needs: thread counts, one-file-per-graph saving, and the effective-precision summary."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Executed, Refusal
from edgeattn.errors import BadInput, EdgeattnError, EngineFailed, OutOfResources, printable
from edgeattn.graphs import MAC_OPS
from edgeattn.program import TensorSpec

if TYPE_CHECKING:
    import onnx

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


_LARGEST = 5  # layers that a summary names for each precision


def precision_summary(executed: Iterable[tuple[str, str]], macs: Mapping[str, int]) -> dict[str, Any]:
    """Summarise the multiply-accumulate nodes an engine really executes.

    Args:
        executed: ``(node, precision)`` for every Conv, MatMul, Gemm or recurrent node in the executed graph; the
            node in the names of the graph the engine was given, as far as the engine kept them.
        macs: multiply-accumulates of that graph's nodes.

    Returns:
        ``label`` (what nine tenths of the work run in, else ``mixed``), ``counts`` of nodes per precision,
        ``macs`` in all, ``macs_in`` each precision and ``int8_macs`` among them; ``largest``, per precision the layers
        with most of the work. A node whose name the engine lost counts as ``unknown``, which is no precision anybody
        asked for, unless all that the engine executes agrees on one.
    """
    nodes = list(executed)
    counts = Counter(precision for _, precision in nodes)
    ran = dict(reversed(nodes))  # of a node that is executed in parts, the first says it
    lost = next(iter(counts)) if len(counts) == 1 else "unknown"
    macs_in: Counter[str] = Counter()
    layers: dict[str, list[tuple[int, str]]] = {}
    for name, count in macs.items():
        if count:
            macs_in[ran.get(name, lost)] += count
            layers.setdefault(ran.get(name, lost), []).append((count, name))
    work = macs_in.total()
    return {
        "label": _label(counts, macs_in),
        "counts": dict(sorted(counts.items())),
        "macs": work,
        "macs_in": dict(sorted(macs_in.items())),
        "int8_macs": macs_in["int8"],
        "largest": {
            precision: {name: count for count, name in sorted(found, reverse=True)[:_LARGEST]}
            for precision, found in sorted(layers.items())
        },
    }


def _label(counts: Counter[str], macs_in: Counter[str]) -> str:
    """What nine tenths of the work run in; of the nodes, where it is not known what the work runs in."""
    known = macs_in if macs_in.total() > 2 * macs_in["unknown"] else counts
    label, most = known.most_common(1)[0] if known else ("n/a", 0)
    return label if most >= 0.9 * known.total() else "mixed"


NOT_COMPILED = "not compiled here"


def not_compiled(macs: Mapping[str, int]) -> dict[str, Any]:
    """As :func:`precision_summary`, of a graph whose device is not here to compile it and to say what it runs in."""
    work = sum(macs.values())
    weighted = sum(1 for count in macs.values() if count)
    return {
        "label": NOT_COMPILED,
        "counts": {NOT_COMPILED: weighted},
        "macs": work,
        "macs_in": {NOT_COMPILED: work} if work else {},
        "int8_macs": 0,
        "largest": {},
    }


class Given:
    """The nodes of the graph an engine was given, found by whatever the engine still calls them.

    Attributes:
        ops: operator type by name; a node without a name is called after its first output.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        named = {node.name or node.output[0]: node for node in model.graph.node if node.output}
        self.ops = {name: node.op_type for name, node in named.items()}
        self._inputs = {name: list(node.input) for name, node in named.items()}
        self._writers = {output: name for name, node in named.items() for output in node.output}

    def find(self, called: Iterable[str]) -> tuple[str, ...]:
        """The nodes among what an engine names, by node or by value, each once and in order."""
        found = (name if name in self.ops else self._writers.get(name, "") for name in called)
        return tuple(dict.fromkeys(name for name in found if name))

    def product(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The nodes with the product first: an engine may call it after the activation that it fused."""
        first = next((name for name in names if self.ops[name] in MAC_OPS), "") or self._behind(names[:1])
        return tuple(dict.fromkeys([first, *names])) if first else names

    def recurrent(self, nodes: Sequence[Executed], ops: Iterable[str]) -> list[Executed]:
        """The nodes with recurrent layers of type ``ops``, whose names were lost, given in order to those of the graph.

        Nothing is guessed: unless there are as many of either (or two each, for both directions), they stay lost.
        """
        known = {name for node in nodes if node.role == "product" for name in node.stands_for}
        free = [name for name, op in self.ops.items() if op in ("LSTM", "GRU", "RNN") and name not in known]
        lost = [
            node for node in nodes if node.op in set(ops) and not any(self.ops[n] in MAC_OPS for n in node.stands_for)
        ]
        each = len(lost) // len(free) if free else 0
        if each not in (1, 2) or len(lost) != each * len(free):
            return list(nodes)
        told = {node.node: (free[i // each],) for i, node in enumerate(lost)}
        return [replace(node, stands_for=told.get(node.node, node.stands_for)) for node in nodes]

    def _behind(self, names: Sequence[str], steps: int = 6) -> str:
        """The nearest product before a node, through what engines fuse into one."""
        for name in names if steps else ():
            if self.ops[name] in MAC_OPS:
                return name
            before = [self._writers[v] for v in self._inputs[name] if v in self._writers]
            if self.ops[name] in _FUSED and (found := self._behind(before, steps - 1)):
                return found
        return ""

    def only_quantizes(self, names: Sequence[str]) -> bool:
        """Whether nodes go from or to INT8 and do nothing else."""
        return bool(names) and all(self.ops[name] in _QDQ for name in names)


_FUSED = frozenset(
    {"Relu", "Sigmoid", "HardSigmoid", "Tanh", "Clip", "LeakyRelu", "Add", "Mul", "Cast", "BatchNormalization"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
_QDQ = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def placed(nodes: Iterable[Executed], reads: Mapping[str, Sequence[str]]) -> list[Executed]:
    """The nodes of an engine's graph with ``after`` told where the engine added them.

    Args:
        nodes: sorted, so that a node comes after what it reads. reads: node -> the nodes it reads, by engine's name.
    """
    known: dict[str, tuple[str, ...]] = {}
    result = []
    for node in nodes:
        before = () if node.stands_for else next((known[r] for r in reads.get(node.node, ()) if known.get(r)), ())
        known[node.node] = node.stands_for or before
        result.append(replace(node, after=before))
    return result


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
