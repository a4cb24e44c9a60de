"""Finds what a graph computes only to say where others read: an error there moves what is read."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Node
from qcompile.ir.opdef import Quantization


def placing_nodes(graph: Graph) -> set[Node]:
    """Return the nodes between the last layers and the coordinates that a sampling, or boxes that a selection, reads.

    Args:
        graph: float graph.
    """
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op.integer is Quantization.ACCUMULATE:
            continue
        uses = [use for value in node.outputs for use in value.uses]
        places = all(operand in reader.op.places or reader in found for reader, operand in uses)
        if uses and places and not any(value in graph.outputs for value in node.outputs):
            found.add(node)
    return found
