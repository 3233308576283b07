"""Quantizing CBAM-ResNet-50 by int8-static and by NNCF's defaults, on the same samples: seconds and peak memory.

    python -m tests.benchmarks.calibration [--samples 300] [--rounds 1] [--ranges minmax] [--target openvino]

Each runs in a process of its own, one after the other, with the same threads. Timed is what the quantizer does with
a graph in memory and the samples: no export, no rewrite, no reading of files. Results: ``build/calibration.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BUILD = Path("build")
FILES = {"nncf": BUILD / "calibration-exported.onnx", "ours": BUILD / "calibration-rewritten.onnx"}


def compare(samples: int, rounds: int = 1, ranges: str = "minmax", target: str = "openvino") -> list[dict[str, Any]]:
    """Seconds and peak GiB of both quantizers, one entry a process."""
    prepare()
    found = []
    for _ in range(rounds):
        for who in FILES:
            command = [sys.executable, "-m", "tests.benchmarks.calibration", "--only", who, f"--samples={samples}"]
            done = subprocess.run([*command, f"--ranges={ranges}", f"--target={target}"], check=True, stdout=-1)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def section(found: list[dict[str, Any]]) -> str:
    """A Markdown table of what :func:`compare` found: the median of the rounds, and their range."""
    lines = [f"## Quantizing CBAM-ResNet-50 with {found[0]['samples']} samples", ""]
    lines += ["| | s | range | peak, GiB | rounds |", "| --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(str(entry["name"]) for entry in found):
        mine = [entry for entry in found if entry["name"] == name]
        seconds = [float(entry["seconds"]) for entry in mine]
        peak = max(float(entry["peak_gib"]) for entry in mine)
        spent = f"**{statistics.median(seconds):.1f}** | {min(seconds):.1f} to {max(seconds):.1f}"
        lines.append(f"| {name} | {spent} | {peak:.2f} | {len(mine)} |")
    return "\n".join(lines) + "\n"


def prepare() -> None:
    """The two files, where they are not there yet."""
    if all(file.exists() for file in FILES.values()):
        return
    import onnx

    from edgeattn import export, source
    from edgeattn.backends import oracle
    from edgeattn.rewrite import rewrite

    BUILD.mkdir(exist_ok=True)
    exported = export.export(source.resolve("cbam_resnet50").source)
    onnx.save(exported.graphs["main"], FILES["nncf"])
    onnx.save(rewrite(exported, oracle).graphs["main"], FILES["ours"])


def nncf(samples: int, ranges: str, target: str) -> dict[str, Any]:
    import nncf
    import openvino as ov

    from edgeattn.tasks.photos import crops

    model = ov.Core().read_model(FILES["nncf"])
    data = nncf.Dataset(list(crops(samples, held_out=False)), lambda image: {"image": image[None]})
    started = time.perf_counter()
    nncf.quantize(model, data, subset_size=samples)
    return {"name": "NNCF", "seconds": time.perf_counter() - started}


def ours(samples: int, ranges: str, target: str) -> dict[str, Any]:
    import onnx

    from edgeattn import registry
    from edgeattn.backends import calibrator
    from edgeattn.program import Case, Program
    from edgeattn.quantize import Settings, quantize
    from edgeattn.report.calibrating import told
    from edgeattn.tasks.photos import TASK

    program = Program({"main": onnx.load(FILES["ours"])})
    data: Iterator[Case] = (Case("calibration", batch.feeds) for batch in TASK.train(samples, 4))
    settings = Settings(qdq=registry.get("backends", target).qdq, ranges=ranges)
    started = time.perf_counter()
    result = quantize(program, "int8-static", calibrator, data, settings)
    seconds = time.perf_counter() - started
    return {"name": f"int8-static, {ranges}", "seconds": seconds, "told": told(result.history[-1].notes)}


def _peak_gib() -> float:
    """The most memory this program ever had; ``getrusage`` would begin at what its parent had when it forked."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ranges", default="minmax")
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--only", choices=list(FILES))
    asked = parser.parse_args()
    if asked.only:
        found = {"nncf": nncf, "ours": ours}[asked.only](asked.samples, asked.ranges, asked.target)
        print(json.dumps({**found, "samples": asked.samples, "peak_gib": _peak_gib()}))
        return
    found = compare(asked.samples, asked.rounds, asked.ranges, asked.target)
    (BUILD / "calibration.json").write_text(json.dumps(found, indent=2))
    for entry in found:
        figures = f"{entry['samples']} samples {entry['seconds']:8.1f} s {entry['peak_gib']:6.2f} GiB"
        print(f"{entry['name']:24} {figures}  {entry.get('told', '')}")


if __name__ == "__main__":
    main()
