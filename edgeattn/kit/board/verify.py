"""``python3 verify.py``: check the kit, build what is not built, run, compare, time, and write ``report.json``.

What the report rests on lies beside it: the engine's answers (``outputs.npz``) and every timed round (``samples.npz``).
``edgeattn check`` judges them again, and refuses a report whose figures they do not bear out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np

from . import compare, gates, machine, precision, timing, versions
from .build import asked, options
from .building import Asked, build, built
from .cuda import Cuda
from .executors import TensorRt, opened
from .files import GOLDENS, OUTPUTS, REPORT, SAMPLES, Kit, new_file, sha256
from .refusal import GATE_FAILED, INCONCLUSIVE, OK, UNSUPPORTED, USAGE, Refused, run, say
from .steps import Executor
from .steps import run as run_program

FOLDER = Path(__file__).resolve().parent.parent
SCHEMA_VERSION = 1
SECONDS = 120.0
_REHEARSED = "this was a rehearsal on a CPU, and no figure here is a board's"
_CODES = {"pass": OK, "fail": GATE_FAILED, "inconclusive": INCONCLUSIVE}


class Open(NamedTuple):
    """A kit with its engines open."""

    kit: Kit
    engines: dict[str, Executor]
    told: dict[str, Any]  # plans/built.json; of a rehearsal, what stands for it
    module: Any
    cuda: Cuda | None

    def run(self, case: compare.Case) -> compare.Arrays:
        """The answers to one case."""
        return run_program(self.engines, self.kit["wiring"], case.feeds, case.tokens)


def main(arguments: Sequence[str]) -> int:
    """Verify; the exit code is the verdict's."""
    told = _arguments(arguments)
    folders = [FOLDER, *([told.against] if told.against else [])]
    kits = [_ready(folder, asked(told)) for folder in folders]  # built before CUDA is awake: a child builds them
    _comparable(kits)
    here, *others = [_open(kit, asked(told)) for kit in kits]
    other = others[0] if others else None
    cases = compare.read_cases(here.kit.folder / GOLDENS, here.kit["cases"])
    say(f"running {len(cases)} cases …")
    answers = [here.run(case) for case in cases]
    report = _report(here, cases, answers)
    warm = machine.temperatures()
    say("timing {} …".format("beside " + str(told.against) if other else "the engine against itself"))
    timed, rounds = _timed(here, other, cases[0], told)
    report["latency"] = timed
    report["board"]["temperatures_c"] = {"before": warm, "after": machine.temperatures()}
    _publish(here.kit, report, answers, rounds)
    _show(report)
    return _CODES[report["verdict"]]


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="verify.py", description="Run, judge and time this kit's engines.")
    known = (versions.BOARD, versions.RTX, versions.REHEARSAL)
    help_ = "onnxruntime rehearses on a CPU and says so in the report; tensorrt_rtx has engines of another kind"
    parser.add_argument("--library", choices=known, default=versions.BOARD, help=help_)
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="rounds that are timed; else the recipe's")
    parser.add_argument("--against", type=Path, metavar="KIT", help="another kit, to time in the same rounds")
    told = options(parser).parse_args(arguments)
    if told.pairs and told.pairs < timing.FEWEST:
        raise Refused(USAGE, "are too few rounds", "--pairs", f"at least {timing.FEWEST}")
    return told


def _ready(folder: Path, wanted: Asked) -> Kit:
    """A kit whose engines are built."""
    kit = Kit(folder)
    if wanted.library != versions.REHEARSAL and built(kit, wanted) is None:
        build(kit, wanted)
    return kit


def _comparable(kits: Sequence[Kit]) -> None:
    """Whether one case can be fed to every kit."""
    first, *others = [kit["cases"][0] for kit in kits]
    for kit, case in zip(kits[1:], others):
        if (sorted(case["feeds"]), case["tokens"]) != (sorted(first["feeds"]), first["tokens"]):
            raise Refused(
                USAGE, "takes other inputs than this kit", f"--against {kit.folder}", "name a kit of this model"
            )


def _open(kit: Kit, wanted: Asked) -> Open:
    """A kit with its engines open."""
    if wanted.library == versions.REHEARSAL:
        module = versions.load(wanted.library)
        told = {"version": str(module.__version__), "typed": False, "engines": {}, "timing_cache": None}
        return Open(kit, opened(kit, wanted.library, module, None), told, module, None)
    told = built(kit, wanted) or {}
    cuda = Cuda()
    module = versions.load(wanted.library)
    if str(module.__version__) != told["version"]:
        what = "was built by {} {}, this is {}".format(wanted.library, told["version"], module.__version__)
        raise Refused(UNSUPPORTED, what, "plans", "build it again: python3 build.py")
    versions.check(wanted.library, told["version"], kit.told, wanted.any_version)
    return Open(kit, opened(kit, wanted.library, module, cuda), told, module, cuda)


def _report(here: Open, cases: Sequence[compare.Case], answers: Sequence[compare.Arrays]) -> dict[str, Any]:
    """The report but for latency and verdict."""
    kit = here.kit
    outputs = compare.judge(cases, answers, kit["limits"])
    versions_ = {"python": sys.version.split()[0], "numpy": np.__version__, here.module.__name__: here.told["version"]}
    if here.cuda is not None:
        versions_["cuda"] = here.cuda.version
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": "inconclusive",
        "recipe": kit["recipe"],
        "model": kit["model"],
        "target": {"requested": kit["target"], "effective": _effective(here)},
        "execution": {"ran": here.cuda is not None, "why": "" if here.cuda else _REHEARSED},
        "precision": _precision(here),
        "stages": _stages(here),
        "parity": {
            "outputs": outputs,
            "stages": [{"stage": "board", "case_count": len(cases), "outputs": outputs}],
        },
        "size": _size(here),
        "environment": dict(machine.environment(), versions=versions_),
        "board": _board(here),
        "notes": _notes(here),
    }


def _effective(here: Open) -> str:
    if here.cuda is None:
        return "rehearsal:{} {}".format(here.module.__name__, here.told["version"])
    name = "jetson" if here.module.__name__ == versions.BOARD else "tensorrt-rtx"
    return "{}:sm{} {}".format(name, here.cuda.capability.replace(".", ""), here.told["version"])


def _precision(here: Open) -> dict[str, Any]:
    wanted = here.kit["precision"]
    if here.cuda is None:
        return {"requested": wanted, "effective": "not known: a rehearsal", "int8_share": None, "share": None}
    layers = {name: engine.layers() for name, engine in here.engines.items() if isinstance(engine, TensorRt)}
    return precision.effective(layers, here.kit["graphs"], wanted, bool(here.told["typed"]))


def _stages(here: Open) -> list[dict[str, Any]]:
    engines = here.told["engines"]
    seconds = sum(engine["seconds"] for engine in engines.values())
    return [{"name": "compile", "seconds": seconds, "notes": {"engines": engines}}] if engines else []


def _size(here: Open) -> dict[str, int] | None:
    engines = here.told["engines"].values()
    whole = sum(engine["bytes"] for engine in engines)
    return {"reference_bytes": here.kit["reference_bytes"], "engine_bytes": whole} if engines else None


def _board(here: Open) -> dict[str, Any]:
    library = here.kit["library"]
    fits = versions.numbers(here.told["version"]) == versions.numbers(library["version"])
    return {
        **machine.describe(),
        "kit": here.kit.id,
        "wanted": "{}, TensorRT {}".format(here.kit["target"], library["version"]),
        "library": here.module.__name__,
        "version": here.told["version"],
        "version_fits": fits and here.module.__name__ == versions.BOARD,
        "rehearsal": here.cuda is None,
        "capability": here.cuda.capability if here.cuda else "",
        "engines": {name: engine["sha256"] for name, engine in here.told["engines"].items()},
        "timing_cache": here.told["timing_cache"],
    }


def _notes(here: Open) -> list[str]:
    notes = list(here.kit["notes"])
    if here.cuda is None:
        return [*notes, _REHEARSED]
    if any(not clock["held"] for clock in machine.describe()["clocks"].values()):
        notes.append("clocks were not held at their highest (sudo jetson_clocks): latency moves with them")
    notes.append("latency includes copies of inputs and outputs between host and device, and of a step's state")
    if not here.told["typed"]:
        notes.append("this TensorRT types weakly: it may compute any layer in the precision that was allowed")
    return notes


def _timed(here: Open, other: Open | None, case: compare.Case, told: argparse.Namespace) -> Any:
    baseline = other or here
    pairs = told.pairs or here.kit["latency"]["pairs"]
    seed = here.kit["latency"]["seed"]
    timed, rounds = timing.measure(lambda: baseline.run(case), lambda: here.run(case), pairs, seed, SECONDS)
    steps = None if case.tokens is None else np.asarray(case.tokens).shape[1]
    timed["unit"] = "inference" if steps is None else f"sequence of {steps} forced steps"
    timed["threads"] = 1 if here.cuda is None else 0
    kit = baseline.kit
    timed["baseline"] = "{} {}".format(kit["model"], kit["precision"]) if other else "the engine itself"
    return timed, rounds


def _publish(kit: Kit, report: dict[str, Any], answers: Sequence[compare.Arrays], rounds: Any) -> None:
    """The evidence, then the report that holds its hashes."""
    names = [case["outputs"] for case in kit["cases"]]
    arrays = {
        f"c{i}.outputs.{j}": np.asarray(given[name])
        for i, given in enumerate(answers)
        for j, name in enumerate(names[i])
        if name in given
    }
    columns = dict(zip(("latency.reference_ms", "latency.engine_ms", "latency.control_ms"), rounds))
    for file, content in ((OUTPUTS, arrays), (SAMPLES, columns)):
        with new_file(kit.folder / file) as work, work.open("wb") as stream:
            np.savez_compressed(stream, **content)
        report["board"][file.partition(".")[0]] = sha256(kit.folder / file)
    report["gates"] = gates.judge(report, kit["gates"])
    report["verdict"] = gates.verdict(report["gates"])
    report["board"]["digest"] = ""
    report["board"]["digest"] = digest(report)
    with new_file(kit.folder / REPORT) as work:
        work.write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n", "utf-8")


def digest(report: dict[str, Any]) -> str:
    """sha256 of a report whose own digest is empty: sorted keys, no spaces. It shows damage, not who wrote it."""
    text = json.dumps(_plain(report), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """JSON-able: what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _show(report: dict[str, Any]) -> None:
    board, latency = report["board"], report["latency"]
    say("{}: {}".format(report["target"]["effective"], board["name"]))
    for name, out in report["parity"]["outputs"].items():
        say("  {}: {} ({}) {} {}".format(name, out["observed"], out["limit"], out["verdict"], out["why"]))
    known = ("p50", "p90", "p99")
    shown = [(q, latency["engine"][q + "_ms"]) for q in known]
    figures = ", ".join("{} {}".format(q, "n/a" if v is None else f"{v:.3f} ms") for q, v in shown)
    say("  latency per {}: {}; {} {}".format(latency["unit"], figures, latency["verdict"], latency["why"]))
    for gate in report["gates"]:
        say("  gate {}: {} {}".format(gate["name"], gate["verdict"], gate["why"]))
    say("verdict: {}; now take this directory back: edgeattn check DIR, edgeattn report DIR".format(report["verdict"]))


if __name__ == "__main__":
    sys.exit(run("verify.py", main, sys.argv[1:]))
