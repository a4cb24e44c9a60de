"""Finds what a graph computes only to take its logarithm: there small values count as much as large ones."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Node

_SCALING = frozenset({
    "abs", "add", "clip", "concat", "conv2d", "conv_transpose2d", "dense", "expand", "gather", "matmul", "maximum",
    "mul", "neg", "pad", "pow", "reduce_mean", "reduce_sum", "reshape", "slice", "split", "sqrt", "sub", "transpose",
})  # fmt: skip
"""Linear operations, powers, and what moves elements: small operands make small results."""


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
    """Return whether small operands make small results: no activation of the node's own hides them."""
    return node.op.name in _SCALING and getattr(node.attrs, "activation", "none") == "none"
