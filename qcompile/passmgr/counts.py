"""Finds what a graph counts: how many tokens a mask leaves, for one. Samples do not tell how far a count goes."""

from __future__ import annotations

from collections.abc import Callable

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.opdef import Quantization

_SUMS = ("reduce_sum", "reduce_mean", "cumulative")
_PRODUCTS = ("conv2d", "conv_transpose2d", "dense", "matmul")
"""Operations behind which a count is one feature among others."""


def counting_nodes(graph: Graph, is_flag: Callable[[Value], bool]) -> set[Node]:
    """Return the nodes that count, those that compute with a count, and the sums that a count divides or scales.

    A count is a sum of flags, or of other integers that the graph was given, and what follows from it alone.

    Args:
        graph: float graph.
        is_flag: whether a float tensor holds nothing but zeros and one other value.
    """
    counts: set[Value] = set()
    found: set[Node] = set()
    integers: set[Value] = set()
    for node in graph.nodes:
        given = [value for value in node.inputs if not value.is_constant]
        if not given or node.outputs[0].dtype != "float32":
            continue
        if _takes_integers_over(node, given, integers):
            integers.update(node.outputs)
        if node.op.name in _SUMS and (given[0] in integers or is_flag(given[0])):
            counts.update(node.outputs)
            found.add(node)
        elif node.op.name not in _PRODUCTS and any(value in counts for value in given):
            found.add(node)
            if all(value in counts for value in given):
                counts.update(node.outputs)
            else:
                sums = (_maker(value) for value in given if value not in counts)
                found.update(made for made in sums if made is not None and made.op.name in _SUMS)
    return found


def _takes_integers_over(node: Node, given: list[Value], integers: set[Value]) -> bool:
    """Return whether float32 results are integers of the graph: cast, moved, or selected by other integers."""
    if node.op.name == "cast":
        return given[0].dtype != "float32" or given[0] in integers
    moved = node.op.integer is Quantization.SHARED or node.op.name in ("mul", "sub", "where")
    return moved and all(value in integers or value.dtype != "float32" for value in given)


def _maker(value: Value) -> Node | None:
    """Return the node that makes a tensor, past what only moves it; None for a graph input."""
    node = value.producer
    while node is not None and node.op.integer is Quantization.SHARED and node.inputs[0].producer is not None:
        node = node.inputs[0].producer
    return node
