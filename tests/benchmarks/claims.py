"""The benchmark table: what edgeattn promises of INT8, each line a paired measurement with its interval and control.

    python -m tests.benchmarks.claims [--only cbam] [--pairs 100] [--out docs/benchmarks.md]

A claim is a ratio of two callables that run in the same rounds. Results go to ``build/claims.json`` as they come, so a
long table can be taken in parts (``--only``) and rendered from all of them. What quantizing takes is measured last
(``--only calibration``): by processes of their own, each quantizer in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeattn import export
from edgeattn.backends._common import usable_cores
from edgeattn.harness import environment, latency
from tests.benchmarks import calibration, contenders
from tests.benchmarks.contenders import Call, Step, Vision

SEEN = Path("build/claims.json")
CALIBRATION = "calibration"
NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
STOCK = {"openvino": "NNCF", "onnxruntime": "quantize_static"}


@dataclass(frozen=True)
class Claim:
    """``time(slow) / time(fast)`` and what it should be.

    Attributes:
        key: short name for ``--only``. group: heading in the table. title: what is compared, in words.
        above, below: builders of the two callables: the ratio is above's time over below's.
        at_most, at_least: the target; neither for a peer's figure that stands beside ours.
    """

    key: str
    group: str
    title: str
    above: Callable[[], tuple[str, Call]]
    below: Callable[[], tuple[str, Call]]
    at_most: float | None = None
    at_least: float | None = None


def claims(threads: int) -> Iterator[Claim]:
    """Every line of the table, in its order."""
    net = {name: Vision(f"{name}resnet50", threads) for name in ("", "se_", "cbam_")}
    limits = {("se_", "openvino"): 1.08, ("se_", "onnxruntime"): 1.12}
    limits |= {("cbam_", "openvino"): 1.20, ("cbam_", "onnxruntime"): 1.25}
    group = "What attention costs in INT8 (time with it ÷ time without it, less is better)"
    for (kind, engine), limit in limits.items():
        label = kind.rstrip("_").upper()
        for who, make, target in (("ours", Vision.ours, limit), (STOCK[engine], Vision.stock, None)):
            yield Claim(
                f"{kind}{engine}-{who}",
                group,
                f"{label}-ResNet-50 ÷ ResNet-50, {NAMES[engine]}, {who}",
                lambda v=net[kind], e=engine, m=make: best(m(v, e)),
                lambda v=net[""], e=engine, m=make: best(m(v, e)),
                at_most=target,
            )
        if engine == "onnxruntime":
            yield Claim(
                f"{kind}{engine}-alike",
                group,
                f"{label}-ResNet-50 ÷ ResNet-50, {NAMES[engine]}, ours, strides hoisted in neither",
                lambda v=net[kind], e=engine: best(v.ours(e, hoisted=False)),
                lambda e=engine: best(net[""].ours(e, hoisted=False)),
            )
        yield Claim(
            f"{kind}{engine}-across",
            group,
            f"{label}-ResNet-50 of ours ÷ ResNet-50 of {STOCK[engine]}, {NAMES[engine]}",
            lambda v=net[kind], e=engine: best(v.ours(e)),
            lambda e=engine: best(net[""].stock(e)),
        )
    cbam = net["cbam_"]
    group = "CBAM-ResNet-50, how many times faster our best artifact is"
    ours = lambda: best({f"ours, {NAMES[e]}, {n}": f for e in NAMES for n, f in cbam.ours(e).items()})  # noqa: E731
    peers = {
        **cbam.stock("openvino"),
        **cbam.stock("onnxruntime"),
        "quantize_dynamic, ONNX Runtime": cbam.ort_dynamic,
        "OpenVINO as exported": lambda: cbam.float32("openvino"),
        "ONNX Runtime as exported": lambda: cbam.float32("onnxruntime"),
        "torch.compile": cbam.compiled,
    }
    yield Claim("cbam-peer", group, "than the best of its peers", lambda: best(peers), ours, at_least=1.15)
    yield Claim("cbam-eager", group, "than PyTorch eager FP32", lambda: ("eager", cbam.eager()), ours, at_least=6.5)

    for model in contenders.translators(threads):
        yield from _step_claims(model)


def _step_claims(model: Step) -> Iterator[Claim]:
    group = "A decoder step (source 30, vocabulary 8,000), how many times faster our best artifact is"
    ways = model.ours()
    ours = lambda: best({f"ours, {name}": lambda w=w: model.step(w) for name, w in ways.items()})  # noqa: E731
    peers = {
        "ONNX Runtime as exported": lambda: model.float32("onnxruntime"),
        "OpenVINO as exported": lambda: model.float32("openvino"),
        "quantize_dynamic, ONNX Runtime": model.ort_dynamic,
        "torch.compile": lambda: model.eager(compiled=True),
    }
    key = model.name.split()[0].lower()
    eager = lambda: ("eager", model.eager())  # noqa: E731
    yield Claim(f"{key}-eager", group, f"{model.name}: than PyTorch eager FP32", eager, ours, at_least=25)
    plain = lambda: ("ONNX Runtime", model.float32("onnxruntime"))  # noqa: E731
    yield Claim(f"{key}-ort", group, f"{model.name}: than ONNX Runtime FP32", plain, ours, at_least=5)
    yield Claim(f"{key}-peer", group, f"{model.name}: than the best of its peers", lambda: best(peers), ours)
    whole = lambda: best({f"ours, {name}": lambda w=w: model.sentence(w) for name, w in ways.items()})  # noqa: E731
    decoded = lambda: ("eager", model.sentence())  # noqa: E731
    group = "A sentence (30 tokens, encoder and greedy decode loop included), how many times faster"
    yield Claim(f"{key}-sentence", group, f"{model.name}, steps: than PyTorch eager FP32", decoded, whole)
    merged = lambda: best({f"ours, one graph, {name}": lambda w=w: model.whole(w) for name, w in ways.items()})  # noqa: E731
    yield Claim(f"{key}-whole", group, f"{model.name}, one graph: than PyTorch eager FP32", decoded, merged)


def best(makers: dict[str, Callable[[], Call]]) -> tuple[str, Call]:
    """The fastest of several, by a short race; a contender that does not build loses."""
    calls: dict[str, Call] = {}
    if len(makers) == 1:
        ((name, make),) = makers.items()
        return name, make()
    for name, make in makers.items():
        try:
            calls[name] = make()
        except Exception as error:
            sys.stderr.write(f"  {name} does not run: {str(error).splitlines()[0]}\n")
    raced = latency.compare_many(calls, pairs=20, max_seconds=60)
    for entry in raced.entries:
        sys.stderr.write(f"  {entry.latency.p50_ms:9.3f} ms  {entry.name}\n")
    name = min(raced.entries, key=lambda e: e.latency.p50_ms).name
    return name, calls[name]


def measure(claim: Claim, pairs: int, threads: int) -> dict[str, object]:
    """One claim measured: both names and medians, the ratio with its interval, the control, and a verdict."""
    (above, slow), (below, fast) = claim.above(), claim.below()
    found = latency.compare_many({above: slow, f"{below} ": fast}, pairs=pairs, threads=threads, max_seconds=100)
    baseline, other = found.entries
    assert other.speedup is not None
    return {
        "group": claim.group,
        "title": claim.title,
        "above": above,
        "below": below,
        "above_ms": baseline.latency.p50_ms,
        "below_ms": other.latency.p50_ms,
        "ratio": other.speedup.median,
        "ci95": list(other.speedup.ci95),
        "control": list(found.aa_control.ci95),
        "rounds": found.rounds,
        "threads": threads,
        "target": f"≤ {claim.at_most}" if claim.at_most else f"≥ {claim.at_least}" if claim.at_least else "",
        "verdict": _verdict(claim, other.speedup.ci95, found.verdict),
    }


def _verdict(claim: Claim, interval: tuple[float | None, float | None], settled: str) -> str:
    low, high = interval
    if claim.at_most is None and claim.at_least is None:
        return ""
    if low is None or high is None:
        return "not measured"
    met = high <= claim.at_most if claim.at_most is not None else low >= (claim.at_least or 0)
    missed = low > claim.at_most if claim.at_most is not None else high < (claim.at_least or 0)
    word = "met" if met else "missed" if missed else "too close to tell"
    return word if settled == "pass" else f"{word}, on a restless machine"


def table(seen: dict[str, dict[str, object]]) -> str:
    """The claims as Markdown, a table a group."""
    lines: list[str] = []
    for group in dict.fromkeys(str(row["group"]) for row in seen.values()):
        lines += ["", f"## {group}", "", "| | times | 95 % interval | target | | ms | control |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for row in (r for r in seen.values() if r["group"] == group):
            low, high = row["ci95"]  # type: ignore[misc]
            c_low, c_high = row["control"]  # type: ignore[misc]
            spent = f"{row['above']} {row['above_ms']:.2f}, {row['below']} {row['below_ms']:.2f}"
            lines.append(
                f"| {row['title']} | **{row['ratio']:.2f}** | {low:.2f} to {high:.2f} | {row['target']} "
                f"| {row['verdict']} | {spent} | {c_low:.3f} to {c_high:.3f} |"
            )
    return "\n".join(lines).lstrip("\n") + "\n"


def page(seen: dict[str, dict[str, object]], quantizing: list[dict[str, Any]] | None) -> str:
    """The whole page; ``quantizing`` is what :func:`calibration.compare` found, if it ran."""
    here = environment.describe()
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    machine = f"{here.cpu}, {here.cores} cores ({', '.join(here.isa)}). Versions: {versions}."
    tables = [table(seen), *([calibration.section(quantizing)] if quantizing else [])]
    return HEAD.format(machine=machine) + "\n".join(tables)


HEAD = """# Benchmarks

Written by `make bench`. Every line is two programs timed in the same rounds of one process, in random order, with the
same threads and input, batch 1. The figure is the median of the ratios within a round, with its 95 % bootstrap
interval; the control is the faster side against itself, which should be 1. The large networks carry untrained weights:
latency does not depend on them. What accuracy costs is in [the zoo](zoo.md).

What attention costs is told thrice: our network with it ÷ ours without, each in its fastest form; the same of the
peer; and ours with it ÷ the peer's without, which is what somebody pays who comes from there. ResNet-50 without
attention may skip positions that a stride throws away ([latency](latency.md)); gates read them all, so the first ratio
holds that, too.

{machine}

"""


def main() -> None:
    """Measure what is asked for, and write the page from everything measured so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="claims whose key contains this")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, help="the Markdown page")
    asked = parser.parse_args()
    export.use_threads(asked.threads)
    SEEN.parent.mkdir(exist_ok=True)
    seen = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    order = list(claims(asked.threads))
    for claim in order:
        if asked.only in claim.key:
            seen[claim.key] = row = measure(claim, asked.pairs, asked.threads)
            SEEN.write_text(json.dumps(seen, indent=2))
            low, high = row["ci95"]  # type: ignore[misc]
            print(
                f"{claim.key:32} {row['ratio']:6.2f} ({low:.2f} to {high:.2f}) {row['target']:7} {row['verdict']}",
                flush=True,
            )
    if asked.only in CALIBRATION:
        seen[CALIBRATION] = calibration.compare(samples=300, rounds=3)
        SEEN.write_text(json.dumps(seen, indent=2))
        print(calibration.section(seen[CALIBRATION]))
    ordered = {claim.key: seen[claim.key] for claim in order if claim.key in seen}
    if asked.out:
        asked.out.write_text(page(ordered, seen.get(CALIBRATION)), encoding="utf-8")


if __name__ == "__main__":
    main()
