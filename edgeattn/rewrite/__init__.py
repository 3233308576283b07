"""Graph rewrites: one rule, one file, one ``RULE``; every result is judged before it stays.

``rewrite`` walks through ``ORDER``. Each rule works on a copy until it finds nothing more; then the copy must pass
the ONNX checker, keep the program's inputs and outputs, hold standard operators only, and give the source's numbers
on the reference cases. A rule that fails is undone, named in the history with the reason, and the walk goes on.

*Measured* rules help on one engine and hurt on another: they are applied only with a ``chooser`` that times the program
before and after on the target, and what it measured is in the history.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn import outside, registry
from edgeattn.errors import BadInput, UnknownName, Unsupported, printable
from edgeattn.memory import assert_fits
from edgeattn.phase import native
from edgeattn.program import StageRecord
from edgeattn.rewrite._rule import Choice, Look
from edgeattn.standard import OPSETS, assert_standard

if TYPE_CHECKING:
    from edgeattn.program import Opener, Program
    from edgeattn.rewrite._rule import Miss, Rule
    from edgeattn.rewrite._walk import Walk
    from edgeattn.rewrite.fix_sizes import FixSizes

    Chooser = Callable[[Program, Program], Choice]

__all__ = ["OPSETS", "ORDER", "Choice", "Look", "rewrite", "selected", "survey", "why_not"]

# Order is meaning.
ORDER: tuple[str, ...] = (
    "split_loop",  # one graph becomes two before anything looks inside
    "fix_sizes",  # before what follows from sizes is folded
    "fold_constants",  # every later rule asks what is constant
    "restore_linear_before_reset",  # before others are judged by numbers that are wrong
    "lower_einsum",  # so that later rules see the products in it
    "canonicalise_reshape",  # shapes are known behind a Reshape whose target is
    "remove_noops",  # what stands between the operators that the others look for
    "canonicalise_reduce",  # one spelling for what follows
    "canonicalise_global_pool",
    "lower_fc_to_conv",  # after the pools are 4-D
    "merge_shared_mlp",  # after the MLP is convolutions
    "remove_expand",  # after the gates keep the name of the batch dimension, which proves shapes equal
    "fuse_batchnorm",
    "canonicalise_key_transpose",
    "split_packed_projection",  # so that queries have a projection of their own
    "fuse_layernorm",
    "fuse_gelu",
    "canonicalise_gelu",  # where there is no operator for it yet
    "clamp_mask",
    "remove_softmax_before_argmax",
    "split_log_softmax",  # measured
    "remove_nan_guard",  # after masks are finite
    "fold_attention_scale",  # after nothing but masks and scales lies between product and Softmax
    "remove_reshape_pairs",  # after what lay between two of them is gone, such as a scale
    "remove_transpose_pairs",
    "split_concat_score",
    "fuse_weighted_sum",
    "lower_recurrent_cell",  # measured
    "fold_embedding",  # measured; after the weights of a recurrent operator are seen
    "canonicalise_general_score",  # to where hoist_keys finds the matrix, or where it is cheap in one graph
    "hoist_keys",  # after the score is split into a query side and a memory side
    "hoist_values",  # measured, against a program whose keys are hoisted
    "merge_summed_products",  # measured; after what is left of a step's sums is there
    "merge_overlapping_products",  # measured; after what is summed is one product
    "lower_vector_product",  # measured
    "fuse_attention",  # measured
    "merge_projections",  # measured; after scales went into the weights of the queries alone
    "hoist_mask",  # measured; after those that know a mask by its Where
    "merge_loop",  # what can leave the step has left it
    "hoist_strides",  # measured
    "split_channel_reduce",  # measured; what it leaves, the next may still improve
    "lower_channel_mean_to_conv",  # measured
    "split_gate_product",  # measured
)


def rewrite(
    program: Program,
    opener: Opener,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    also: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    chooser: Chooser | None = None,
    progress: Callable[[str], None] | None = None,
    repro: Path | None = None,
) -> Program:
    """Apply the rules of ``ORDER`` and judge each of them.

    Args:
        program: standard ONNX graphs with a reference (cases to judge by); it is not edited.
        opener: opens every graph of a program in an engine with graph optimisation off.
        only: names of the rules to apply; empty means all.
        skip: names of the rules to leave out.
        also: rules that change the program's form (``split_loop``, ``merge_loop``), applied only where asked for.
        sizes: what ``fix_sizes`` fixes, by dimension or ``input:axis``; none leaves the inputs as they are.
        chooser: times a program before and after a measured rule, and says which stays. Without one, a measured rule
            is applied only if ``only`` names it.
        progress: called with one line per rule.
        repro: a directory; for each rule that was undone, a small graph on which it fails is left in ``repro/RULE``,
            with inputs and a README. It is made when the first is.

    Returns:
        A new program; the last history record is named ``rewrite`` and its notes hold ``rules`` (rule, count,
        nodes_before, nodes_after, max_abs, exactness, ``where``: the modules it changed, ``measured`` where it was
        timed, ``undone`` or ``note`` with a reason, and ``repro``, the name of what was left in that directory),
        ``operators`` and ``operators_before``, ``attention`` (what was recognised and which rules changed it),
        ``parameters`` and ``macs`` (graph -> before, after), ``cases`` (how many it was judged by), ``inputs`` and
        ``outputs``, before and ``_after``.

    Raises:
        UnknownName: a name in ``only`` or ``skip`` that is no rule.
        BadInput: the source fails the ONNX checker, or the program has no reference.
        UsageError: ``sizes`` names what is no dimension, or a size that the model cannot have.
        Unsupported: vendor operators, or an opset outside 11 to 26.
    """
    from edgeattn.rewrite import _walk
    from edgeattn.rewrite.fix_sizes import FixSizes

    started = time.perf_counter()
    also = (*also, "fix_sizes") if sizes else also
    _known(also)
    rules = [_named(name) for name in selected((*only, *also) if only else (), skip)]
    if program.reference is None or not program.reference.cases:
        hint = "draw cases from its inputs first"
        raise BadInput("the program has no reference cases to judge rewrites by", hint=hint)
    source = _prepared(program)
    if sizes:
        fixer = FixSizes(sizes)
        fixer.resolve(source)
        rules = [fixer if rule.name == fixer.name else rule for rule in rules]
    walk = _walk.Walk(source, opener, progress or (lambda line: None), chooser, (*only, *also), repro)
    with _seldom_collecting():
        walk.over(rules)
    if sizes:
        _refuse_unless_fixed(fixer, next(r for r in walk.records if r["rule"] == fixer.name), source)
    assert_standard(walk.program, "rewrite")
    outside.verify(*program.graphs.values())  # what was rewritten is what was read
    notes = _notes(source, walk)
    record = StageRecord("rewrite", time.perf_counter() - started, notes)
    result = walk.program
    return program.after(record, graphs=result.graphs, wiring=result.wiring, reference=result.reference)


def _notes(source: Program, walk: Walk) -> dict[str, Any]:
    """What the record tells of the rules and of the graphs before and after them."""
    from edgeattn.rewrite import _check, _story

    assert source.reference is not None
    return {
        "rules": walk.records,
        "operators": _check.operators(walk.program),
        "operators_before": _check.operators(source),
        "attention": _story.attention(source, walk.changes),
        "cases": len(source.reference.cases),
        **_story.costs(source, walk.program),
        **_story.interface(source),
        **{f"{side}_after": specs for side, specs in _story.interface(walk.program).items()},
    }


@contextlib.contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Python's garbage collector looks through every node again and again while graphs are built; less often, here."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _refuse_unless_fixed(rule: FixSizes, record: Mapping[str, Any], source: Program) -> None:
    """Sizes were asked for by number: what cannot have them is an error, not a rule that was undone."""
    if "undone" in record:
        raise BadInput(f"the model cannot have these sizes: {record['undone']}", where=f"--fix {rule.asked}")
    misses = () if record["count"] else rule.apply(source).misses
    if misses and "already" not in misses[0].reason:
        raise BadInput(misses[0].reason, where=f"--fix {rule.asked}")


def selected(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[str]:
    """Rule names in order, without those that ``only`` and ``skip`` rule out.

    Raises:
        UnknownName: with the nearest rule names.
    """
    _known((*only, *skip))
    return [name for name in ORDER if (not only or name in only) and name not in skip]


def _known(names: Sequence[str]) -> None:
    for name in names:
        if name not in ORDER:
            raise UnknownName("rule", name, ORDER)


def why_not(rule_name: str, program: Program) -> list[Miss]:
    """Where a rule did not fire and why, nearest miss first; empty when its first node occurs nowhere.

    The rules before it have done their work, as in ``rewrite``.

    Raises:
        UnknownName: no such rule.
    """
    (look,) = survey(program, selected([rule_name]))
    return list(look.misses)


def survey(program: Program, names: Sequence[str] = ORDER) -> list[Look]:
    """What each rule would do, after the rules before it: from the graphs alone, nothing is run or judged.

    Rules that not every rewrite applies (measured ones, and those that PyTorch must judge) are looked at, and what
    comes after them sees the graphs without their work.

    Raises:
        UnknownName: a name that is no rule. BadInput, Unsupported: as ``rewrite``.
    """
    from edgeattn.rewrite import _look

    wanted = selected(names)
    current, looks = _prepared(program), []
    for name in ORDER[: ORDER.index(wanted[-1]) + 1]:
        look, current = _look.at(_named(name), current, name in wanted)
        looks += [look] if name in wanted else []
    return looks


def _named(name: str) -> Rule:
    rule: Rule = registry.get("rewrite", name)
    return rule


def _prepared(program: Program) -> Program:
    """The source with local functions inlined and shapes inferred, or the error that says what it lacks."""
    from onnx.inliner import inline_local_functions

    from edgeattn.rewrite import _apply, _check

    with native("ONNX", "inlining functions"):
        graphs = {n: inline_local_functions(m) if m.functions else m for n, m in program.graphs.items()}
    inlined = replace(program, graphs=graphs)
    assert_standard(inlined, "rewrite")
    for name, model in inlined.graphs.items():
        if model.graph.sparse_initializer:
            raise Unsupported(
                f"keeps '{printable(model.graph.sparse_initializer[0].values.name, 80)}' as a sparse initializer",
                where=f"graph '{name}'",
                hint="export it with dense weights",
            )
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if model.graph.node and opset not in OPSETS:
            raise Unsupported(
                f"opset {opset}; rewrite reads {OPSETS[0]} to {OPSETS[-1]}",
                where=f"graph '{name}'",
                hint="export it again with --opset 18",
            )
    if program.reference is None:  # else it has run already
        assert_fits(inlined)
    reason = _check.broken(inlined)
    if reason:
        raise BadInput(reason, hint="check the file with onnx.checker.check_model, or export it again")
    graphs = {name: _apply.infer_shapes(model) for name, model in inlined.graphs.items()}
    for model in graphs.values():  # copies; the version before 4 has no constants but those the caller may override
        model.ir_version = max(model.ir_version, 4)
    return replace(inlined, graphs=graphs)
