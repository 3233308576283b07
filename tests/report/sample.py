"""A complete report with made-up figures, for tests of the forms it is written in."""

from __future__ import annotations

import numpy as np

from edgeattn.report.evidence import AttentionFigure, RawSamples
from edgeattn.report.schema import (
    Attempt,
    Environment,
    GateReport,
    Latencies,
    LatencyReport,
    Operators,
    OutputParity,
    Pair,
    ParityReport,
    Precision,
    Ratio,
    Report,
    RewriteCount,
    SizeReport,
    StageParity,
    StageReport,
    Target,
    TaskReport,
)


def output(verdict="pass", **changes):
    figures = {"max_abs": 0.021, "mean_abs": 0.004, "sqnr_db": 34.2, "cosine": 0.9998, "observed": "SQNR 34.2 dB"}
    limit = "SQNR ≥ 30 dB (fails < 20), cosine ≥ 0.997"
    return OutputParity(**{"limit": limit, "verdict": verdict, **figures, **changes})


def latency(verdict="pass", ci=(3.31, 3.42), why=""):
    control = Ratio(median=1.0004, ci95=(0.9981, 1.0023))
    speedup = Ratio(median=3.37, ci95=ci)
    return LatencyReport(
        reference=Latencies(p50_ms=88.1, p90_ms=93.5, p95_ms=95.0, min_ms=84.0, n=300),
        engine=Latencies(p50_ms=26.1, p90_ms=27.0, p95_ms=27.9, min_ms=25.2, n=300),
        speedup=speedup,
        aa_control=control,
        rounds=300,
        threads=2,
        attempts=(Attempt(rounds=300, speedup=speedup, aa_control=control, settled=verdict == "pass"),),
        verdict=verdict,
        why=why,
    )


def task(verdict="pass", ci=(-0.001, 0.004), limit=0.005, **changes):
    figures = {"reference": 0.9861, "engine": 0.9847, "drop": 0.0014, "agreement": 0.9958, "samples": 720}
    known = {"name": "digits", "metric": "accuracy", **figures, **changes}
    return TaskReport(ci95=ci, limit=limit, verdict=verdict, **known)


def dense_task():
    """A task in decibels with a figure beside it and nothing to agree on."""
    return task(
        ci=(0.004, 0.021),
        limit=0.05,
        name="superresolution",
        metric="psnr",
        unit="dB",
        samples=42,
        reference=25.8534,
        engine=25.8411,
        drop=0.0123,
        agreement=None,
        also={"ssim": Pair(reference=0.77912, engine=0.77854)},
    )


def report(**changes):
    exact = output(max_abs=2.1e-6, mean_abs=3e-7, sqnr_db=118.0, cosine=1.0, observed="error 2.1e-06 against float64")
    stages = [
        StageParity(stage="export", case_count=9, outputs={"logits": exact, "mask": exact}),
        StageParity(stage="rewrite", case_count=9, outputs={"logits": exact, "mask": exact}),
        StageParity(
            stage="compile",
            case_count=9,
            outputs={
                "logits": output(worst_case="real-b1"),
                "mask": output("warn", sqnr_db=24.9, why="24.9 dB < 30 dB", worst_case="real-b2"),
            },
        ),
    ]
    base = {
        "verdict": "pass",
        "recipe": "cbam_digits.openvino.int8.yaml",
        "model": "cbam_digits",
        "target": Target(requested="openvino:cpu", effective="openvino:cpu"),
        "precision": Precision(requested="int8", effective="int8 + bf16", int8_share=0.964),
        "stages": [
            StageReport(name=n, seconds=s, cached=n == "export") for n, s in (("export", 4.2), ("rewrite", 0.4))
        ],
        "rewrites": [
            RewriteCount(rule="fold_batch_norm", count=53, nodes_before=412, nodes_after=359, max_abs=2.4e-6),
            RewriteCount(rule="fuse_gate_mlp", count=16, nodes_before=359, nodes_after=327, max_abs=0.0),
        ],
        "operators": Operators(
            domains=("",),
            histogram={"Conv": 53, "Relu": 49, "QuantizeLinear": 70, "MatMul": 32, "Sigmoid": 32, "Mul": 32},
        ),
        "parity": ParityReport.of(stages),
        "task": task(),
        "latency": latency(),
        "size": SizeReport(reference_bytes=112_400_000, engine_bytes=29_100_000),
        "environment": Environment(
            cpu="Example CPU",
            isa=("avx2", "avx512_vnni"),
            cores=2,
            logical=2,
            threads=2,
            load=0.4,
            versions={"numpy": "2"},
        ),
        "gates": [
            GateReport(name="parity", limit=True, observed="2 of 2 outputs within limits", verdict="pass"),
            GateReport(
                name="task_drop", limit=0.005, observed=0.0014, verdict="pass", why="95 % interval [-0.1 %, 0.4 %]"
            ),
            GateReport(name="speedup", limit=3.0, observed=3.31, verdict="pass"),
        ],
    }
    return Report(**{**base, **changes})


def raw(rounds=300):
    rng = np.random.default_rng(0)

    def ms(median):
        return median * rng.lognormal(0, 0.03, rounds) * np.where(rng.random(rounds) < 0.02, 1.4, 1.0)

    return RawSamples(ms(88.0), ms(26.0), ms(26.0))


def spatial(title="attention over a digit"):
    y, x = np.mgrid[:32, :32]
    image = np.exp(-((np.hypot(x - 16, y - 16) - 9) ** 2) / 6)
    v, u = np.mgrid[:8, :8]
    mask = 1 / (1 + np.exp(-(np.hypot(u - 3.5, v - 3.5) - 2.0)))
    noise = np.random.default_rng(1).normal(0, 0.01, mask.shape)
    return AttentionFigure("spatial", title, mask, mask + noise, image=image)


def alignment(source="3rd of march, 1999", target="1999-03-03"):
    t, s = len(target), len(source)
    order = np.array([len(source) - 4 + i if i < 4 else (i * 7) % s for i in range(t)])
    weights = np.exp(-np.abs(np.arange(s)[None] - order[:, None]) / 0.8)
    weights /= weights.sum(1, keepdims=True)
    noisy = np.clip(weights + np.random.default_rng(2).normal(0, 0.006, weights.shape), 0, 1)
    return AttentionFigure("alignment", "Luong alignment", weights, noisy, source=tuple(source), target=tuple(target))
