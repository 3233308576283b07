"""split_log_softmax: a beam's log-probabilities are computed for the words that it keeps.

What: ``TopK(LogSoftmax(x))`` becomes ``TopK(x)`` with ``ReduceLogSumExp(x)`` subtracted from the K values;
``ReduceMax(LogSoftmax(x))`` likewise. The indices are those of the logits.

Why: a beam search keeps K of V log-probabilities; LogSoftmax writes all V. Whether that is faster, an engine decides.

Before: TopK(LogSoftmax(x))
After: values = Sub(TopK(x), ReduceLogSumExp(x)); indices = TopK(x)

Safe when: both work along the same axis, nothing else reads the log-probabilities, and the largest values are sought.
The normaliser is one number a row, so the order stays; two logits that LogSoftmax rounds to one log-probability are
told apart, where it was a tie. A row with NaN or +Inf, or of -Inf alone, has no log-probabilities either way.
Source: log softmax(x) = x - logsumexp(x); ONNX operators TopK, ReduceLogSumExp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite import _axes
from edgeattn.rewrite._rule import Exactness, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class SplitLogSoftmax(GraphRule):
    """TopK and ReduceMax of log-probabilities, as those of logits minus the normaliser."""

    name = "split_log_softmax"
    exactness = Exactness(
        "conditional", 1e-5, 1e-4, condition="no two of the kept logits round to the same log-probability"
    )
    anchors = ("TopK", "ReduceMax")
    measured = True

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the TopK or ReduceMax."""
        log = made_by(node.inputs[0], "LogSoftmax")
        if log is None:
            return None
        shape = dims(log.inputs[0])
        if shape is None:
            return miss("its rank is unknown, so its axes cannot be compared", log, 1)
        theirs = attr(log, "axis", -1 if view.opset >= 13 else 1) % len(shape)
        if view.opset < 13 and theirs != len(shape) - 1:
            return miss(f"in opset {view.opset} it normalises all axes from {theirs} on at once", log, 1)
        found = axes(node) if node.op_type == "ReduceMax" else (attr(node, "axis", -1) % len(shape),)
        if found != (theirs,):
            return miss(f"it normalises axis {theirs}, but the largest are sought along {found}", log, 1)
        if node.op_type == "TopK" and not attr(node, "largest", 1):
            return miss("it takes the smallest values", node, 2)
        if not used_once(log.outputs[0]):
            return miss("the log-probabilities are read elsewhere too", log, 2)
        return Match(node, (log, node), {"logits": log.inputs[0], "axis": theirs, "opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """The same operator on the logits, and the normaliser subtracted from what it keeps."""
        node, logits, axis, opset = (match.anchor, *(match.parts[k] for k in ("logits", "axis", "opset")))
        keepdims = 1 if node.op_type == "TopK" else attr(node, "keepdims", 1)
        total = _axes.reduce(build, "ReduceLogSumExp", logits, axis, opset, keepdims)
        attributes = {name: a.value for name, a in node.attributes.items()}
        shapes = [dims(o) for o in node.outputs]
        best, *indices = build.ops(node.op_type, logits, *node.inputs[1:], shapes=shapes, **attributes)
        build.replace(node.outputs[0], build.op("Sub", best, total, shape=shapes[0]))
        for old, new in zip(node.outputs[1:], indices, strict=True):
            new.type = old.type
            build.replace(old, new)

    def examples(self) -> list[Program]:
        """A beam of two; the best along another axis; the largest alone, in both spellings of its axes."""
        return as_programs(
            graph(
                """(float[batch,9] x) => (float[batch,2] v, int64[batch,2] i) {
                    p = LogSoftmax(x)
                    v, i = TopK(p, k) }""",
                k=i64(2),
            ),
            graph(
                """(float[batch,9,3] x) => (float[batch,2,3] v, int64[batch,2,3] i) {
                    p = LogSoftmax <axis = 1> (x)
                    v, i = TopK <axis = -2> (p, k) }""",
                k=i64(2),
            ),
            graph(
                "(float[batch,9] x) => (float[batch,1] v) { p = LogSoftmax(x)  v = ReduceMax(p, last) }", last=i64(1)
            ),
            graph(
                """(float[batch,9] x) => (float[batch] v) {
                    p = LogSoftmax <axis = 1> (x)
                    v = ReduceMax <axes = [1], keepdims = 0> (p) }""",
                opset=11,
            ),
        )

    def near_misses(self) -> list[Program]:
        """Another axis; the smallest; log-probabilities that are read; an older opset's flattening."""
        head = "(float[batch,9] x) => (float[batch,2] v, int64[batch,2] i"
        return as_programs(
            graph(
                """(float[batch,9,3] x) => (float[batch,2,3] v, int64[batch,2,3] i) {
                    p = LogSoftmax <axis = 2> (x)
                    v, i = TopK <axis = 1> (p, k) }""",
                k=i64(2),
            ),
            graph(f"{head}) {{ p = LogSoftmax(x)  v, i = TopK <largest = 0> (p, k) }}", k=i64(2)),
            graph(f"{head}, float[batch,9] p) {{ p = LogSoftmax(x)  v, i = TopK(p, k) }}", k=i64(2)),
            graph(
                """(float[batch,9,3] x) => (float[batch,9,2] v, int64[batch,9,2] i) {
                    p = LogSoftmax(x)
                    v, i = TopK(p, k) }""",
                k=i64(2),
                opset=11,
            ),
        )

    def workload(self) -> Program:
        """A beam of five over 8,000 words."""
        return as_programs(
            graph(
                """(float[5,8000] x) => (float[5,5] v, int64[5,5] i) {
                    p = LogSoftmax(x)
                    v, i = TopK(p, k) }""",
                k=i64(5),
            )
        )[0]


RULE = SplitLogSoftmax()
