"""Which tensors may leave values out."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Value
from qcompile.ir.opdef import Quantization

_MOVES = ("cast", "concat", "pad")
"""What else moves elements, beside what keeps the quantization of its operand."""


def may_miss(graph: Graph) -> set[Value]:
    """Return the tensors whose elements the network asks whether they are NaN, at once or moved about: those miss."""
    pending = [node.inputs[0] for node in graph.nodes if node.op.name == "is_nan"]
    found: set[Value] = set()
    while pending:
        value = pending.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer
        if node is not None and (node.op.integer is Quantization.SHARED or node.op.name in _MOVES):
            pending += [node.inputs[index] for index in node.op.operand_activations(node)]
    return found
