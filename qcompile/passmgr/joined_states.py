"""States that a network only joins to what it computes, such as the last frames of a stream."""

from __future__ import annotations

from collections import defaultdict

from qcompile.ir.graph import Graph, Value
from qcompile.ir.opdef import Quantization


def joined_states(graph: Graph) -> dict[Value, Value]:
    """Return the inputs that look like such states, each with the output that is its next value.

    The inputs of one type are taken for states where there are as many outputs of that type, in the same order, and
    other inputs beside them.

    Args:
        graph: float graph.

    Returns:
        Those that nothing reads but concatenations, by way of what only moves elements.
    """
    alike: dict[object, tuple[list[Value], list[Value]]] = defaultdict(lambda: ([], []))
    for side, values in enumerate((graph.inputs, graph.outputs)):
        for value in values:
            alike[value.type][side].append(value)
    found = {}
    for given, made in alike.values():
        if len(given) == len(made) < len(graph.inputs):
            found.update({value: result for value, result in zip(given, made, strict=True) if _is_joined(value)})
    return found


def _is_joined(value: Value) -> bool:
    """Return whether concatenations alone read a tensor, or what was moved of it."""
    readers = value.users()
    for node in readers:
        moves = node.op.integer is Quantization.SHARED and len(node.op.operand_activations(node)) == 1
        if node.op.name != "concat" and not (moves and all(_is_joined(result) for result in node.outputs)):
            return False
    return bool(readers)
