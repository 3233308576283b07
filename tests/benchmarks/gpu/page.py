"""What was measured on a GPU, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS = ("", "ms", "wall ms", "times eager FP32", "95 %", "control", "parity", "SQNR dB", "CUDA graph by")
TITLES = {
    "cbam_resnet50": "CBAM-ResNet-50",
    "resnet50": "ResNet-50",
    "se_resnet50": "SE-ResNet-50",
    "vit_small": "ViT-S/16",
    "luong_2x512": "Luong 2 × LSTM-512, one step",
}
HEAD = """## Measured on a GPU

{machine}
Written by `make bench-gpu`. Batch 1, all contenders of a table in one process, in rounds of random order; `ms` is the
median by {clock}, with every input and output on the device; `wall ms` is the same call by the wall clock, waiting
included. Times are those of the first line over each one's, within a round, with their 95 % bootstrap interval; the
control is a contender against itself, which should be 1. Parity is against PyTorch in FP32 on the CPU, at the limits
of the precision. Weights of these sizes are untrained: latency does not depend on them, and accuracy is not judged.
"""


def section(result: Mapping[str, Any]) -> str:
    """Everything that was measured, a table a model."""
    clocks = dict.fromkeys(model["clock"] for model in result["models"] if "clock" in model)
    head = HEAD.format(machine=_machine(result), clock=" or ".join(clocks) or "no clock")
    return "\n".join([head, *(table(model) for model in result["models"])])


def _machine(result: Mapping[str, Any]) -> str:
    known = result["gpu"]
    card = (
        f"{known['name']} (compute capability {known.get('compute_cap')}, driver {known.get('driver_version')}, "
        f"clocks {known.get('clocks.sm')} of {known.get('clocks.max.sm')} SM, {known.get('clocks.mem')} of "
        f"{known.get('clocks.max.mem')} memory before the first model)"
        if known
        else f"No GPU: {result['without a GPU']}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{card}; {result['cpu']}, {result['cores']} cores. Versions: {versions}.\n"


def table(model: Mapping[str, Any]) -> str:
    """One model: those that ran, then those that did not and why."""
    lines = [f"### {TITLES.get(model['model'], model['model'])}", ""]
    if "left out" in model:
        return "\n".join([*lines, f"Not measured: {model['left out']}", ""])
    ran = [entry for entry in model["contenders"] if "left out" not in entry]
    if ran:
        lines += [_row(HEADS), _row(["---"] * len(HEADS)), *(_row(_cells(entry)) for entry in ran), ""]
    said = [f"- {e['contender']}: {line}" for e in ran for line in _remarks(e)]
    absent = [f"- {e['contender']} did not run: {_line(e['left out'])}" for e in model["contenders"] if "left out" in e]
    warm = [f"- Clocks after: {after['clocks.sm']} SM, {after['temperature.gpu']} °C"] if (
        after := model.get("gpu after")) else []  # fmt: skip
    return "\n".join([*lines, *said, *absent, *warm, ""])


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [
        entry["contender"],
        _number(entry["p50_ms"], 3),
        _number(entry["wall_ms"], 3),
        _number(entry["speed"], 2),
        _span(entry["ci95"], 2),
        _span(entry["control"], 3),
        entry["parity"],
        _number(entry["sqnr_db"], 1),
        entry["graph"],
    ]


def _remarks(entry: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know of one contender."""
    facts = entry["facts"]
    made = "built for {built for}: {bytes:,} bytes in {seconds:.1f} s"
    return [
        *([made.format(**facts)] if "bytes" in facts else []),
        *(f"the runtime refused the plan for {device}: {_line(told['said'])}"
          for device, told in facts.get("refused", {}).items()),
        *(["computes in FP16 by autocast"] if facts.get("autocast") else []),
        *([f"no CUDA graph: {_line(facts['no CUDA graph'])}"] if "no CUDA graph" in facts else []),
        *([f"error {share:.2f} times eager's in FP16"] if (share := entry.get("error of eager's")) else []),
        *(_line(said) for said in entry["parity said"]),
    ]  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _span(bounds: list[float | None] | None, digits: int) -> str:
    if not bounds or bounds[0] is None or bounds[1] is None:
        return ""
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _line(text: str) -> str:
    return " ".join(text.split())
