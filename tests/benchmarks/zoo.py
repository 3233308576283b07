"""Run every recipe of a trained model and write their table: ``python -m tests.benchmarks.zoo --out FILE.md``.

Runs that are there already are kept, so an interrupted table goes on; ``--fresh`` starts over. Latency is measured only
briefly: the table leaves it out, since runs at different moments are no fair race.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeattn import models, report
from edgeattn.recipe import FOLDER, Recipe

CPU_ENGINES = ("onnxruntime", "openvino")
QUICK = ("--set", "latency.pairs=20", "--set", "latency.threads=1", "--quiet")
HEAD = """# The zoo: every trained model on every CPU engine

Written by `make zoo`. PyTorch eager is the reference of every column: parity is the worst output over all cases
(FP32: largest absolute error; INT8: signal to quantization noise on real data), the task is scored on held-out data by
PyTorch and by the engine, size is the exported FP32 graph against what the engine loads. "in INT8" is the share of the
multiply-accumulates that really run in INT8. `edgeattn list models` tells what each model is.

"""


def recipes() -> list[Path]:
    """The recipes of models that ship with weights, for engines that run on any CPU, by name."""
    trained = {name for name, (_, config) in models.configurations().items() if config.weights}
    known = {path: Recipe.load(path) for path in sorted(FOLDER.glob("*.yaml"))}
    return [path for path, recipe in known.items() if recipe.model in trained and recipe.target.startswith(CPU_ENGINES)]


def run(recipe: Path, folder: Path, fresh: bool) -> str:
    """Run one recipe unless its report is there; a line when it did not end well."""
    out = folder / recipe.name.removesuffix(".yaml")
    if (out / "report.json").exists() and not fresh:
        return ""
    command = [sys.executable, "-m", "edgeattn", "run", str(recipe), "-o", str(out), "--force", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{out.name}: exit {done.returncode} {done.stderr.strip()}"


def main() -> int:
    """Run all, write the table, and tell which runs did not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"), help="where the run directories go")
    parser.add_argument("--jobs", type=int, default=2, help="recipes at a time, a thread each")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    wanted = recipes()
    with ThreadPoolExecutor(options.jobs) as pool:
        complaints = [line for line in pool.map(lambda r: run(r, options.runs, options.fresh), wanted) if line]
    places = [options.runs / recipe.name.removesuffix(".yaml") / "report.json" for recipe in wanted]
    found = [report.Report.read(place) for place in places if place.exists()]
    options.out.write_text(HEAD + report.table.markdown(found), encoding="utf-8")
    sys.stderr.write("\n".join([*complaints, f"{options.out}: {len(found)} of {len(wanted)} recipes\n"]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
