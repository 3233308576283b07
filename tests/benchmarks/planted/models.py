"""What a whole model says: its opset, domains and names."""

from __future__ import annotations

from onnx import TensorProto as T
from onnx import helper

from tests.benchmarks.planted._model import Graphs, X, Y, f32, model, node


def opsets() -> Graphs:
    """A convolution and what follows it, in every opset."""
    for opset in (*range(7, 29), 40):
        nodes = [node("Conv", "x w", "c"), node("Relu", "c")]
        yield f"opset/{opset}", model(nodes, [X], [Y], {"w": f32(4, 3, 3, 3)}, opset, min(max(opset - 8, 4), 13))


def foreign() -> Graphs:
    """Vendor operators, other standard domains, functions that travel in the model."""
    yield (
        "domain/microsoft-gelu",
        model([node("Gelu", "x", domain="com.microsoft")], [X], [Y], domains=["com.microsoft"]),
    )
    yield (
        "domain/microsoft-attention",
        model(
            [node("Attention", "x w b", domain="com.microsoft", num_heads=2)],
            [("x", T.FLOAT, (1, 4, 8))],
            [Y],
            {"w": f32(8, 24), "b": f32(24)},
            domains=["com.microsoft"],
        ),
    )
    yield "domain/nowhere", model([node("Relu", "x", domain="nowhere")], [X], [Y], domains=["nowhere"])
    yield (
        "domain/ml",
        model(
            [node("Scaler", "x", domain="ai.onnx.ml", offset=[0.0], scale=[1.0])],
            [("x", T.FLOAT, (2, 3))],
            [Y],
            domains=["ai.onnx.ml"],
        ),
    )
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    yield (
        "domain/function",
        model([node("Twice", "x", domain="own")], [X], [Y], domains=["own"], functions=[function]),
    )
    yield "domain/no-such-operator", model([node("Superpose", "x")], [X], [Y])


def names() -> Graphs:
    """Nodes that share a name, or have none."""
    for op in ("Relu", "Conv", "Add", "Identity"):
        inputs = {"Conv": "{} w", "Add": "{} w"}.get(op, "{}")
        both = [node(op, inputs.format("x"), "h"), node(op, inputs.format("h"), "y")]
        stored = {"Conv": {"w": f32(3, 3, 1, 1)}, "Add": {"w": f32(8)}}.get(op, {})
        for name in ("same", ""):
            for n in both:
                n.name = name
            yield f"names/{op}-{name or 'none'}", model(both, [X], [Y], stored)
