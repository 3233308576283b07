"""Custom-op-free, as one assertion: every node of every graph belongs to the standard ONNX domain.

The stages that change graphs (rewrite, quantize) assert it on what they receive and on what they hand over,
because an engine that lacks one vendor's operator rejects the whole file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeattn.errors import Unsupported, printable

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program

STANDARD_DOMAINS = ("", "ai.onnx")
OPSETS = range(11, 27)
"""What is read and rewritten: before 11, Squeeze and Clip are spelled otherwise; 26 is the newest that engines open."""


def foreign_nodes(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Nodes outside the standard domain, as ``(node, domain, operator)``.

    Looks into the subgraphs of If, Loop and Scan and into the bodies of model-local functions. A call to a local
    function is foreign itself: its domain is the model's own, which no engine promises to know.
    """
    found = [
        (node.name or next(iter(node.output), ""), node.domain, node.op_type)
        for node in all_nodes(model.graph)
        if node.domain not in STANDARD_DOMAINS
    ]
    for function in model.functions:
        found += [
            (f"{function.name}/{inner.name}", inner.domain, inner.op_type)
            for node in function.node
            for inner in _with_subgraphs(node)
            if inner.domain not in STANDARD_DOMAINS
        ]
    return found


def assert_standard(program: Program, stage: str) -> None:
    """Raise when a graph of ``program`` holds a node from another domain than ``ai.onnx``.

    Args:
        program: the program to look through.
        stage: what was being done, for the message: ``rewrite``, ``quantize`` …

    Raises:
        Unsupported: the operators are listed, with the first node of each.
    """
    for name, model in program.graphs.items():
        foreign = foreign_nodes(model)
        if foreign:
            first = {f"{domain}::{op}": node for node, domain, op in reversed(foreign)}
            listed = ", ".join(f"{printable(op, 80)} (node '{printable(first[op], 80)}')" for op in sorted(first)[:5])
            more = f" and {len(first) - 5} more" if len(first) > 5 else ""
            raise Unsupported(
                f"{stage} takes standard ONNX operators only; found {listed}{more}",
                where=f"graph '{name}'",
                hint="export or optimise the model again without vendor operators (for ONNX Runtime: at most BASIC)",
            )


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)
            for inner in attribute.graphs:
                yield from all_nodes(inner)


def _with_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from all_nodes(attribute.g)
        for graph in attribute.graphs:
            yield from all_nodes(graph)
