"""What only the first run of a growing sequence needs."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Value


def needed_first(graph: Graph) -> set[Value]:
    """Return the tensors that nothing but the rows of a cache that is written once depend on.

    Args:
        graph: read only; without the length of a growing sequence there are none.
    """
    lengths = {symbol.past for symbol in graph.symbols if symbol.past}
    always = set(graph.outputs)
    first: set[Value] = set()
    for node in reversed(graph.nodes):
        if not any(value in always or value in first for value in node.outputs):
            continue
        counted = node.op.name == "cache_append" and node.attrs.once and node.inputs[2].name in lengths
        needed = any(value in always for value in node.outputs)
        for index, value in enumerate(node.inputs):
            (always if needed and not (counted and index == 1) else first).add(value)
    return first - always
