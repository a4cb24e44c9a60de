"""Which node of one import of a model is which node of another, at other lengths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node


@dataclass(frozen=True)
class Twins:
    """The nodes of a graph at the largest size beside those of imports at other lengths.

    Args:
        whole: without a past, all places new.
        small: at `sizes`.
        total: places of the largest size, and of `whole`.
        new: new places of the largest size.
        sizes: past and new places of `small`.
    """

    whole: Mapping[Node, Node]
    small: Mapping[Node, Node]
    total: int
    new: int
    sizes: tuple[int, int]


def match_nodes(graph: Graph, other: Graph, appending: Collection[Node]) -> dict[Node, Node]:
    """Return which node of another import stands for each node.

    Args:
        graph: has a past.
        other: may have none; what appends to the past is then missing or has one operand that counts.
        appending: nodes of `graph` that append to the past.

    Raises:
        UnsupportedOpError: the imports do not have the same operations.
    """
    found: dict[Node, Node] = {}
    position = 0
    for node in graph.nodes:
        twin = other.nodes[position] if position < len(other.nodes) else None
        same = twin is not None and twin.op.name == node.op.name and len(twin.inputs) == len(node.inputs)
        if node in appending and not (same and twin is not None and twin.loc == node.loc):
            continue
        if twin is None or not same:
            where = node.loc or node.outputs[0].name
            raise UnsupportedOpError(
                f"node {where} ({node.op.name}) does not stand where it does at other lengths of the past",
                hint="caches of one length can be kept: give their inputs fixed extents with --input-shape",
            )
        found[node] = twin
        position += 1
    return found
