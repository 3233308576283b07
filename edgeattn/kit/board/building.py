"""ONNX files to engines, for every TensorRT alike; ``versions.py`` says what differs between them.

A network is strongly typed where the version knows that, so that it computes in what the graph names. TF32 is off: an
engine called FP32 multiplies in FP32. What was timed while building is kept in a timing cache beside the engines, so
that the next build of the same kit chooses the same kernels; a cache whose hash is not the recorded one is not used.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

from . import versions
from .files import BUILT, PLANS, Kit, new_directory, sha256, sweep
from .refusal import UNSUPPORTED, Refused, printable, run, say

CACHE = "timing.cache"
HEARTBEAT_S = 60
"""TensorRT builds without a word, for minutes: after so many seconds it is told that it is still at it."""


class Asked(NamedTuple):
    """What the person at the board asked for.

    Attributes:
        library: package that builds. any_version: go on with another TensorRT than the kit was made for.
        capability: of the GPU to build for, ``sm89``, where that is not the one here (tensorrt_rtx only).
        workspace_mib: device memory that the builder may take for a kernel's scratch; 0 leaves it to TensorRT.
    """

    library: str = versions.BOARD
    any_version: bool = False
    capability: str = ""
    workspace_mib: int = 0


def build(kit: Kit, asked: Asked) -> None:
    """Build every graph of a kit into ``plans/``, whole or not at all; in a child process, which may die.

    Raises:
        Refused: no TensorRT, another version, a graph that it does not take, or a builder that died.
    """
    try:
        in_child(lambda: _build(kit, asked), "the builder")
    finally:
        sweep(kit.folder)


def in_child(work: Callable[[], None], what: str) -> None:
    """Do native work in a process of its own; a signal that ends it is told by name, an exit code is handed on."""
    sys.stdout.flush()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(work,))
    child.start()
    started = time.monotonic()
    try:
        child.join(HEARTBEAT_S)
        while child.exitcode is None:
            say(f"{what} is still at work after {time.monotonic() - started:.0f} s …")
            child.join(HEARTBEAT_S)
    except BaseException:
        child.terminate()
        child.join()
        raise
    code = child.exitcode or 0
    if code < 0:
        hint = "nothing was written; SIGKILL is what Linux sends when memory runs out"
        raise Refused(UNSUPPORTED, f"{what} died of {signal.Signals(-code).name}", hint=hint)
    if code:
        raise SystemExit(code)  # the child said why


def _child(work: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to tell, and what is left is swept

    def job(_: Sequence[str]) -> int:
        work()
        return 0

    raise SystemExit(run(Path(sys.argv[0]).name, job, ()))


def built(kit: Kit, asked: Asked) -> dict[str, Any] | None:
    """What ``plans/built.json`` says, if these are whole engines of this kit by this library; else None."""
    try:
        told: dict[str, Any] = json.loads((kit.folder / PLANS / BUILT).read_text("utf-8"))
        fits = (told["kit"], told["library"], told["capability"]) == (kit.id, asked.library, asked.capability)
        whole = all(sha256(kit.folder / PLANS / e["file"]) == e["sha256"] for e in told["engines"].values())
        return told if fits and whole and set(told["engines"]) == set(kit["graphs"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(kit: Kit, asked: Asked) -> None:
    library = versions.load(asked.library)
    found = str(library.__version__)
    versions.check(asked.library, found, kit.told, asked.any_version)
    row = versions.row_of(asked.library, found)
    log = logger(library)
    cache = _known_cache(kit, asked, found) if row.timing_cache else b""
    engines: dict[str, Any] = {}
    with new_directory(kit.folder / PLANS) as work:
        for name, graph in kit["graphs"].items():
            say(f"building {name} for {asked.library} {found} …")
            started = time.monotonic()
            plan, cache = _graph(library, log, kit.folder / graph["file"], graph, row, asked, cache)
            file = work / (name + ".plan")
            file.write_bytes(plan)
            engines[name] = {"file": file.name, "sha256": sha256(file), "bytes": len(plan)}
            engines[name]["seconds"] = round(time.monotonic() - started, 2)
        told: dict[str, Any] = {
            "kit": kit.id,
            "library": asked.library,
            "version": found,
            "capability": asked.capability,
        }
        told.update({"typed": row.typed, "engines": engines, "timing_cache": None})
        if row.timing_cache:
            (work / CACHE).write_bytes(cache)
            told["timing_cache"] = sha256(work / CACHE)
        (work / BUILT).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    for name, engine in engines.items():
        say("{}/{}.plan: {} bytes in {} s".format(PLANS, name, engine["bytes"], engine["seconds"]))


def _graph(
    library: Any,
    log: Any,
    file: Path,
    graph: dict[str, Any],
    row: versions.Row,
    asked: Asked,
    cache: bytes,
) -> Any:
    """One graph's engine and the timing cache that knows it."""
    builder = library.Builder(log)
    kind = library.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(kind.STRONGLY_TYPED if row.typed else kind.EXPLICIT_BATCH))
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(file)):
        raise Refused(UNSUPPORTED, _parser_says(parser), file.name, "see README.txt, 'refused by the parser'")
    config = builder.create_builder_config()
    _configure(library, config, graph["types"], row, asked)
    _shapes(builder, config, network, graph["profiles"])
    held = None
    if row.timing_cache:
        held = config.create_timing_cache(cache)
        config.set_timing_cache(held, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        what = "was not built: " + (log.said or "no reason given")
        raise Refused(UNSUPPORTED, what, file.name, "see README.txt, 'refused by the builder'")
    return bytes(plan), bytes(config.get_timing_cache().serialize()) if held is not None else b""


def _configure(library: Any, config: Any, types: Sequence[str], row: versions.Row, asked: Asked) -> None:
    flag = library.BuilderFlag
    config.clear_flag(flag.TF32)  # on by default: FP32 products would keep ten bits
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # or the engine would not tell its precision
    for kind in () if row.typed else types:
        config.set_flag(getattr(flag, kind.upper()))
    if asked.workspace_mib:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, asked.workspace_mib << 20)
    if asked.capability:
        known = getattr(library, "ComputeCapability", None)
        wanted = getattr(known, asked.capability.upper(), None)
        if wanted is None:
            what = f"{library.__name__} cannot build for {asked.capability}"
            raise Refused(UNSUPPORTED, what, "--compute-capability", "an engine of TensorRT is built on its own board")
        config.num_compute_capabilities = 1
        config.set_compute_capability(wanted, 0)


def _shapes(builder: Any, config: Any, network: Any, profiles: Sequence[dict[str, dict[str, list[int]]]]) -> None:
    """The range of every dynamic input, as one optimization profile for each bucket of sizes."""
    inputs = [network.get_input(i).name for i in range(network.num_inputs)]
    for bucket in profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in bucket.items():
            if name in inputs:
                profile.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        config.add_optimization_profile(profile)


def _parser_says(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors:
        return "was refused by the parser without a word"
    first = errors[0]
    name = first.node_name() if hasattr(first, "node_name") else f"number {first.node()}"
    return f"node '{name}' was refused by the parser: {first.desc()}"


def _known_cache(kit: Kit, asked: Asked, version: str) -> bytes:
    """The timing cache of an earlier build of this kit by this very TensorRT, if it is whole."""
    earlier = built(kit, asked)
    path = kit.folder / PLANS / CACHE
    if earlier is None or earlier["version"] != version or not path.is_file():
        return b""
    if sha256(path) != earlier["timing_cache"]:
        say(f"{PLANS}/{CACHE} is not the one that was recorded: kernels are timed again")
        return b""
    say(f"kernels are chosen by {PLANS}/{CACHE}")
    return path.read_bytes()


def logger(library: Any) -> Any:
    """A logger that keeps the last error instead of printing every line; TensorRT's own plugins know it too."""

    class Log(library.ILogger):  # type: ignore[misc]
        said = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                self.said = printable(message)

        def __init__(self) -> None:
            library.ILogger.__init__(self)

    log = Log()
    if hasattr(
        library, "init_libnvinfer_plugins"
    ):  # TensorRT 8 does InstanceNormalization and others by its own plugins
        library.init_libnvinfer_plugins(log, "")
    return log
