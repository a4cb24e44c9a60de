"""Who computes a tensor and who computes from it, past the nodes that only move its elements."""

from __future__ import annotations

from collections.abc import Callable

from qcompile.ir.graph import Node, Value


def makers(value: Value) -> list[Node]:
    """Return what computes the elements of a tensor, and the nodes that move them from there.

    Args:
        value: of any graph.

    Returns:
        The nodes, in no order that means something; none for inputs of the graph and constants.
    """

    def before(node: Node) -> list[Node]:
        return [made for i in node.op.operand_activations(node) if (made := node.inputs[i].producer) is not None]

    return _past_movers([value.producer] if value.producer is not None else [], before)


def takers(value: Value) -> list[Node]:
    """Return what computes with the elements of a tensor, and the nodes that move them until there.

    Args:
        value: of any graph.

    Returns:
        The nodes, the nearest first.
    """
    return _past_movers(value.users(), lambda node: [user for result in node.outputs for user in result.users()])


def _past_movers(first: list[Node], neighbours: Callable[[Node], list[Node]]) -> list[Node]:
    found: dict[Node, None] = dict.fromkeys(first)
    waiting = list(found)
    while waiting:
        node = waiting.pop(0)
        more = [other for other in neighbours(node) if other not in found] if node.op.only_moves(node) else []
        found.update(dict.fromkeys(more))
        waiting += more
    return list(found)
