"""Graph rewrites: one rule, one file, one ``RULE``; every result is judged before it stays.

``rewrite`` walks through ``ORDER``. Each rule works on a copy until it finds nothing more; then the copy must pass
the ONNX checker, keep the program's inputs and outputs, hold standard operators only, and give the source's numbers
on the reference cases. A rule that fails is undone, named in the history with the reason, and the walk goes on.

*Measured* rules help on one engine and hurt on another: they are applied only with a ``chooser`` that times the program
before and after on the target, and what it measured is in the history.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeattn import registry
from edgeattn.errors import BadInput, UnknownName, Unsupported
from edgeattn.phase import native
from edgeattn.program import StageRecord
from edgeattn.rewrite._rule import Choice
from edgeattn.standard import assert_standard

if TYPE_CHECKING:
    from edgeattn.program import Program, Session
    from edgeattn.rewrite._rule import Miss, Rule
    from edgeattn.rewrite.fix_sizes import FixSizes

    Opener = Callable[[Program], Mapping[str, Session]]
    Chooser = Callable[[Program, Program], Choice]

__all__ = ["OPSETS", "ORDER", "Choice", "rewrite", "selected", "why_not"]

# Order is meaning.
ORDER: tuple[str, ...] = (
    "split_loop",  # one graph becomes two before anything looks inside
    "fix_sizes",  # before what follows from sizes is folded
    "fold_constants",  # every later rule asks what is constant
    "restore_linear_before_reset",  # before others are judged by numbers that are wrong
    "lower_einsum",  # so that later rules see the products in it
    "remove_noops",  # what stands between the operators that the others look for
    "canonicalise_reduce",  # one spelling for what follows
    "canonicalise_global_pool",
    "lower_fc_to_conv",  # after the pools are 4-D
    "merge_shared_mlp",  # after the MLP is convolutions
    "remove_expand",  # after the gates keep the name of the batch dimension, which proves shapes equal
    "fuse_batchnorm",
    "canonicalise_key_transpose",
    "remove_transpose_pairs",  # after what hides a Transpose between Reshapes is one
    "fuse_layernorm",
    "fuse_gelu",
    "clamp_mask",
    "remove_softmax_before_argmax",
    "split_log_softmax",  # measured
    "remove_nan_guard",  # after masks are finite
    "fold_attention_scale",  # after nothing but masks and scales lies between product and Softmax
    "split_concat_score",
    "lower_recurrent_cell",  # measured
    "fold_embedding",  # after the weights of a recurrent operator are seen
    "hoist_keys",  # after the score is split into a query side and a memory side
    "merge_loop",  # what can leave the step has left it
)

OPSETS = (11, 26)  # read by the rules' pattern helpers; older spellings of Squeeze and Clip would be misread


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

    Returns:
        A new program; the last history record is named ``rewrite`` and its notes hold ``rules`` (rule, count,
        nodes_before, nodes_after, max_abs, exactness, ``measured`` where it was timed, and ``undone`` or ``note`` with
        a reason) and ``operators``.

    Raises:
        UnknownName: a name in ``only`` or ``skip`` that is no rule.
        BadInput: the source fails the ONNX checker, or the program has no reference.
        UsageError: ``sizes`` names what is no dimension, or a size that the model cannot have.
        Unsupported: vendor operators, or an opset outside 11 to 26.
    """
    from edgeattn.rewrite import _check, _walk
    from edgeattn.rewrite.fix_sizes import FixSizes

    started = time.perf_counter()
    also = (*also, "fix_sizes") if sizes else also
    _known(also)
    rules = [_named(name) for name in selected((*only, *also) if only else (), skip)]
    if program.reference is None or not program.reference.cases:
        raise BadInput(
            "the program has no reference cases to judge rewrites by", hint="draw cases from its inputs first"
        )
    source = _prepared(program)
    if sizes:
        fixer = FixSizes(sizes)
        fixer.resolve(source)
        rules = [fixer if rule.name == fixer.name else rule for rule in rules]
    walk = _walk.Walk(source, opener, progress or (lambda line: None), chooser, asked=(*only, *also))
    for rule in rules:
        walk.step(rule)
        if sizes and rule.name == "fix_sizes":
            _refuse_unless_fixed(fixer, walk.records[-1], source)
    assert_standard(walk.program, "rewrite")
    notes: dict[str, Any] = {"rules": walk.records, "operators": _check.operators(walk.program)}
    record = StageRecord("rewrite", time.perf_counter() - started, notes)
    result = walk.program
    return program.after(record, graphs=result.graphs, wiring=result.wiring, reference=result.reference)


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

    Raises:
        UnknownName: no such rule.
    """
    from edgeattn.rewrite import _apply
    from edgeattn.rewrite._rule import GraphRule

    if rule_name not in ORDER:
        raise UnknownName("rule", rule_name, ORDER)
    rule = _named(rule_name)
    prepared = _prepared(program)
    misses = _apply.find_misses(rule, prepared) if isinstance(rule, GraphRule) else _apply.apply(rule, prepared).misses
    return sorted(misses, key=lambda m: -m.near)


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
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if model.graph.node and not OPSETS[0] <= opset <= OPSETS[1]:
            raise Unsupported(
                f"opset {opset}; rewrite reads {OPSETS[0]} to {OPSETS[1]}",
                where=f"graph '{name}'",
                hint="export it again with --opset 18",
            )
    reason = _check.broken(inlined)
    if reason:
        raise BadInput(reason, hint="check the file with onnx.checker.check_model, or export it again")
    return replace(inlined, graphs={name: _apply.infer_shapes(model) for name, model in inlined.graphs.items()})
