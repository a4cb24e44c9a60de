"""Finds what a graph computes only to take its logarithm: there small values count as much as large ones."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Node

_LINEAR = frozenset({"conv2d", "conv_transpose2d", "dense", "matmul"})
_POWERS = frozenset({"abs", "add", "clip", "maximum", "mul", "neg", "pow", "reduce_mean", "reduce_sum", "sqrt", "sub"})
_MOVES = frozenset({"concat", "expand", "gather", "pad", "reshape", "slice", "split", "transpose"})


def nodes_before_logarithms(graph: Graph) -> set[Node]:
    """Return the logarithms, and the spectra and powers that are seen through them alone.

    A step of 8 bits, or of 16, is as large as the quiet part of a spectrum, and the logarithm shows it at its full
    size. The search goes back over linear operations and powers, as filter banks and transforms in front of a network
    are made of; it ends at activations, behind which are the network's own layers.

    Args:
        graph: float graph.
    """
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op.name == "log":
            found.add(node)
        elif _scales(node) and not any(value in graph.outputs for value in node.outputs):
            readers = [user for value in node.outputs for user in value.users()]
            if readers and found.issuperset(readers):
                found.add(node)
    return found


def _scales(node: Node) -> bool:
    """Return whether a node has no activation of its own, so that small operands make small results."""
    activation = getattr(node.attrs, "activation", "none")
    return node.op.name in _LINEAR | _POWERS | _MOVES and activation == "none"
