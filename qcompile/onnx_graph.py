"""What the nodes of ONNX graphs hold and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx


def subgraphs(node: Any) -> Iterator[Any]:
    """Iterate over the graphs that a node holds."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def with_nested(nodes: Iterable[Any]) -> Iterator[Any]:
    """Iterate over nodes, and over those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from with_nested(graph.node)


def reads(node: Any) -> list[str]:
    """Return the names a node reads, those that its subgraphs take from outside included."""
    names = list(node.input)
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        for inner in graph.node:
            names += [name for name in reads(inner) if name not in own]
            own.update(inner.output)
        names += [v.name for v in graph.output if v.name not in own]
    return names


def needed(nodes: Sequence[Any], wanted: set[str]) -> list[Any]:
    """Return the nodes that some tensors depend on, in their order.

    Args:
        nodes: ONNX nodes in order of computation.
        wanted: names of these tensors; all that the nodes read is added.
    """
    found = []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output if name):
            found.append(node)
            wanted.update(reads(node))
    return found[::-1]
