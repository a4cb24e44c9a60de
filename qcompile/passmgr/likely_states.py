"""Inputs that look like states, by the outputs beside them."""

from __future__ import annotations

from collections import defaultdict

from qcompile.ir.graph import Graph, Value
from qcompile.ir.opdef import Quantization


def likely_states(graph: Graph) -> dict[Value, Value]:
    """Return the real inputs that look like states, each with the output that looks like its next value.

    The inputs of one type are taken for states where there are as many outputs of that type, in the same order, and
    other inputs beside them.

    Args:
        graph: in float.
    """
    alike: dict[object, tuple[list[Value], list[Value]]] = defaultdict(lambda: ([], []))
    for side, values in enumerate((graph.inputs, graph.outputs)):
        for value in values:
            if value.dtype == "float32":
                alike[value.type][side].append(value)
    found: dict[Value, Value] = {}
    for given, made in alike.values():
        if len(given) == len(made) < len(graph.inputs):
            found.update(zip(given, made, strict=True))
    return found


def joined_states(graph: Graph) -> dict[Value, Value]:
    """Return those of `likely_states` that a network only joins to what it computes, as the last frames of a stream.

    Args:
        graph: in float.

    Returns:
        Those that nothing reads but concatenations, by way of what only moves elements.
    """
    return {state: following for state, following in likely_states(graph).items() if _is_joined(state)}


def _is_joined(value: Value) -> bool:
    """Return whether concatenations alone read a tensor, or what was moved of it."""
    readers = value.users()
    for node in readers:
        moves = node.op.integer is Quantization.SHARED and len(node.op.operand_activations(node)) == 1
        if node.op.name != "concat" and not (moves and all(_is_joined(result) for result in node.outputs)):
            return False
    return bool(readers)
