"""The form of a graph with a growing sequence in which a run has one new place."""

from __future__ import annotations

from dataclasses import replace

from qcompile.ir.graph import Graph
from qcompile.shapes.specialize import Specializer


def with_one_place(graph: Graph) -> Graph | None:
    """Return the graph for runs of one new place, None where nothing grows or runs have one size anyway.

    Args:
        graph: with symbols, without masks; read only.
    """
    length = next((symbol for symbol in graph.symbols if symbol.past and not symbol.new.isdigit()), None)
    new = next((symbol for symbol in graph.symbols if length is not None and symbol.name == length.new), None)
    if length is None or new is None or new.least != 1 or graph.extents or len(graph.symbols) != 2:
        return None
    single, _ = Specializer(graph).at({new.name: 1, length.name: length.most})
    single.symbols = (replace(length, new="1"),)
    return single
