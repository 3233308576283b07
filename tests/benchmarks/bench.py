"""Programs before and after rewriting, and beside other rewriters, timed in the same rounds with an A/A control.

What INT8 is worth against what you would use instead is in claims.py.

    make bench                                             everything, claims too
    python -m tests.benchmarks.bench rewrite-peers         CBAM-ResNet-50 and Luong through other graph rewriters
    python -m tests.benchmarks.bench rewrite-vision        CBAM-ResNet-50 before and after the rewrite, two exporters
    python -m tests.benchmarks.bench rewrite-decoder       decoder steps before and after rewriting, source 30 and 200
    python -m tests.benchmarks.bench rewrite-transformer   four transformers before and after the rewrite

Every contender gets the same threads and the same input; ratios are medians of per-round ratios with 95 % intervals.
Writes build/bench-<group>.json. The weights of these models are untrained: latency does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeattn import export
from edgeattn.backends._common import usable_cores
from edgeattn.harness import latency
from edgeattn.report.schema import Comparison
from tests.benchmarks import decoders, rewrite_peers, transformers, vision_rewrite

Calls = dict[str, Callable[[], object]]
THREADS = usable_cores()


Group = Callable[[int], Iterator[tuple[str, Calls]]]
"""Threads -> titled comparisons; each is timed in rounds of its own."""
GROUPS: dict[str, Group] = {
    "rewrite-vision": vision_rewrite.comparisons,
    "rewrite-decoder": decoders.step_calls,
    "rewrite-transformer": transformers.comparisons,
    "rewrite-peers": rewrite_peers.comparisons,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help=", ".join(GROUPS))
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=THREADS)
    asked = parser.parse_args()
    export.use_threads(asked.threads)
    Path("build").mkdir(exist_ok=True)
    for group in asked.groups or GROUPS:
        found = {}
        for title, calls in GROUPS[group](asked.threads):
            result = latency.compare_many(calls, pairs=asked.pairs, threads=asked.threads, max_seconds=300)
            found[title] = result.model_dump(mode="json")
            told(title, result)
            Path(f"build/bench-{group}.json").write_text(json.dumps(found, indent=2))


def told(title: str, result: Comparison) -> None:
    sys.stdout.write(f"\n{title}: {result.rounds} rounds, {result.threads} threads, {result.verdict} {result.why}\n")
    for entry in result.entries:
        low, high = (None, None) if entry.speedup is None else entry.speedup.ci95
        span = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        ratio = "" if entry.speedup is None else f"{entry.speedup.median:6.2f}x{span} vs first"
        sys.stdout.write(f"  {entry.latency.p50_ms:9.3f} ms  {ratio:36} {entry.name}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
