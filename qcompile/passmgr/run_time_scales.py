"""Nodes around a quantization whose scale the data decide."""

from __future__ import annotations

from qcompile.ir.graph import Graph, Node, Value


def scaling_nodes(graph: Graph) -> set[Node]:
    """Return the nodes that compute scales and zero points at run time, and those that multiply with them.

    Such are in models that someone else quantized dynamically. Whatever a scale loses, all values that it stands for
    lose.

    Args:
        graph: float graph.
    """
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op.name == "quantize_linear":
            found |= _makers(node)
    scales: set[Value] = {value for node in found for value in node.outputs}
    for node in graph.nodes:
        read = [value.type.size for value in node.inputs if value in scales]
        if read and node.outputs[0].dtype == "float32":
            found.add(node)
            scales.update(value for value in node.outputs if value.type.size <= max(read))
    return found


def _makers(quantize: Node) -> set[Node]:
    """Return the nodes behind the scale and zero point of a quantization, back to what reduces the tensor."""
    size = quantize.inputs[0].type.size
    made: set[Node] = set()
    waiting = [value.producer for value in quantize.inputs[1:]]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in made and all(value.type.size < size for value in node.outputs):
            made.add(node)
            waiting.extend(value.producer for value in node.inputs)
    return made
