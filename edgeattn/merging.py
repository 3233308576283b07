"""``decoding``: an autoregressive program as steps, or with its greedy loop as one graph.

Steps are quantized, and then merged: what a quantizer looks for does not lie inside a Loop. ``graph`` takes the one
graph, ``auto`` takes it where the target decodes whole sequences faster with it, both forms in the same rounds. A graph
that decodes takes no forced tokens, so PyTorch judges its steps on the same engine, and they judge what it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn import choose, decode
from edgeattn.backends import rounded
from edgeattn.errors import Unsupported
from edgeattn.harness import parity
from edgeattn.rewrite import rewrite

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Options
    from edgeattn.harness.limits import Limits
    from edgeattn.program import Program, Session
    from edgeattn.report.schema import StageParity

RULE, STAGE = "merge_loop", "merge"
DECODED = "{}, decoded"


def settled(program: Program, how: str, backend: Backend, options: Options, *, seed: int = 0) -> tuple[Program, str]:
    """The program in the form that was asked for, or that is faster, and why.

    Args:
        program: wired, rewritten and quantized as it will run.
        how: ``graph`` or ``auto``. backend, options: where it will run. seed: of the measurement.

    Returns:
        The program, with a record ``merge`` in its history where it was merged, and a line for the report.

    Raises:
        Unsupported: ``graph``, and the steps cannot become one.
    """
    chooser = None
    if how == "auto":
        if options.precision != "fp32" and not getattr(backend, "reads_loops", False):
            return (
                program,
                f"decoding=auto took steps: {backend.name} does not tell in what precision a Loop's body runs",
            )
        chooser = choose.by_latency(backend.name, options, seed=seed)
    result = rewrite(program, rounded, only=(RULE,), chooser=chooser)
    *before, last = result.history
    (told,) = (r for r in last.notes["rules"] if r["rule"] == RULE)
    why = told.get("undone") or told.get("note", "")
    if not told["count"]:
        if how == "graph":
            raise Unsupported(f"its steps do not become one graph: {why}", where="decoding", hint="set it to steps")
        return program, f"decoding=auto took steps: {why}"
    merged = replace(result, history=(*before, replace(last, name=STAGE)))
    return merged, f"decoding={how} took one graph: {why}"


def judge(
    steps: Program,
    opened: Mapping[str, Session],
    merged: Mapping[str, Session],
    limits: Limits,
) -> StageParity:
    """An engine that decodes: its steps against PyTorch, on forced tokens, and what it decodes against its steps.

    Args:
        steps: the program before it was merged, with PyTorch's answers. opened: its graphs in the engine.
        merged: the one graph there. limits: what both are held to; tokens must be equal.
    """
    assert steps.reference is not None
    cases = steps.reference.cases
    forced = parity.judge(
        "engine", lambda case: decode.run(opened, steps.wiring, case.feeds, case.tokens), cases, limits
    )
    (graph,) = merged.values()
    given = {spec.name for spec in graph.outputs}
    free = []
    for case in cases:
        answer = decode.run(opened, steps.wiring, case.feeds)
        outputs = {name: value for name, value in answer.items() if name in given}
        free.append(replace(case, tokens=None, outputs=outputs, golden={}, rounded={}))
    decoded = parity.judge("engine", lambda case: decode.run(merged, None, case.feeds), free, limits)
    both = {**forced.outputs, **{DECODED.format(name): found for name, found in decoded.outputs.items()}}
    return forced.model_copy(update={"outputs": both})
