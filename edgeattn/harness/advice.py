"""What each cause of latency is, and what may be done about it, in words."""

from __future__ import annotations

WHY = {
    "layout": "the same numbers in another order: Transposes and Reorders between layers that want other layouts",
    "quantize-passes": "QuantizeLinear and DequantizeLinear that fused with nothing: each is a pass over a tensor",
    "conversions": "from one type to another, each a pass over a tensor; of a weight, at every run",
    "attention": "what attention does beside its products: pools, reductions, gates, softmax",
    "other-nodes": "elementwise and pooling nodes that fused with no product",
}
# Told by a word of why a layer is in float; the first that fits.
_FLOAT = (
    ("gate", "edgeattn quantize --gate names the other policies; measure them, gates cost little arithmetic"),
    ("request", "leave its pattern out of --keep where accuracy allows"),
    ("recurrent", "run it step by step where it decodes; a step's products quantize as any other's"),
    ("narrow", "nothing to gain in INT8: widen the layer, or merge it with a neighbour"),
    ("computed", "int8-static quantizes stored weights only; try bf16 around it where the CPU has it"),
    ("stored in INT8", "weight-only saves memory, not arithmetic: compute in INT8 with int8-static or int8-dynamic"),
    ("attention", "its scores and gates lose most in INT8; weigh what it costs"),
    ("no QuantizeLinear", "edgeattn quantize the float model with real data, -t {target}"),
    ("less than", "ask for the precision that the graph is typed in, or export it in float32"),
    ("engine", "ask for a precision that this CPU computes in, or ship fp32"),
    ("", "edgeattn quantize with another scheme, and judge accuracy again"),
)
_ELSE = {
    "unfused-layers": "quantize the float model for this engine: edgeattn quantize -t {target}",
    "layout": "edgeattn rewrite -t {target} before quantizing; fewer float islands, fewer changes of layout",
    "quantize-passes": "edgeattn quantize -t {target} places pairs where this engine fuses them; a layer kept in "
    "float costs a pass on either side",
    "conversions": "keep neighbours in one type; of INT8 weights that are unpacked at every run, use int8-static",
    "attention": "edgeattn rewrite -t {target} tries the forms of it that this engine runs faster",
    "other-nodes": "edgeattn rewrite -t {target}; what is left is bound by memory, not by arithmetic",
}


def of(cause: str, why: str, target: str) -> str:
    """What to do about a cause.

    Args:
        cause: as in :class:`edgeattn.report.timing.Cause`. why: the reason that goes with it.
        target: the engine, for commands.
    """
    if cause == "float-layers":
        return next(do for word, do in _FLOAT if word in why).format(target=target)
    return _ELSE[cause].format(target=target)


def between(threads: int) -> str:
    """What to do about time between nodes."""
    do = "fix sizes (edgeattn rewrite --fix batch=1), run more rows at once"
    return do if threads <= 1 else f"fewer threads (--threads 1) for a graph this small, {do}"
