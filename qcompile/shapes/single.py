"""The form of a graph with a growing sequence in which a run has one new place."""

from __future__ import annotations

from dataclasses import replace

from qcompile.ir.graph import Graph
from qcompile.shapes.analysis import analyse
from qcompile.shapes.specialize import Specializer


def with_one_place(graph: Graph) -> Graph | None:
    """Return the graph for runs of one new place, None where nothing grows or runs have one size anyway.

    Other open extents stay open; then the first elements of the caller's tensors must be the first in memory.

    Args:
        graph: with symbols, without masks; read only.
    """
    length = next((symbol for symbol in graph.symbols if symbol.past and not symbol.new.isdigit()), None)
    new = next((symbol for symbol in graph.symbols if length is not None and symbol.name == length.new), None)
    if length is None or new is None or new.least != 1 or graph.extents:
        return None
    single, _ = Specializer(graph).at({symbol.name: symbol.most for symbol in graph.symbols} | {new.name: 1})
    others = [symbol for symbol in graph.symbols if symbol not in (length, new)]
    single.symbols = (*others, replace(length, new="1"))
    return single if _are_prefixes(single) else None


def _are_prefixes(graph: Graph) -> bool:
    """Return whether open axes of the caller's tensors are the outermost ones, but for axes of one element."""
    analysis, kept = analyse(graph), {name for state in graph.states for name in (state.input, state.output)}
    values = [value for value in graph.inputs if value.name not in kept]
    values += [v for name, v in zip(graph.output_names, graph.outputs, strict=True) if name not in kept]
    return all(
        extent is None or max(value.shape[:axis], default=1) == 1
        for value in values
        for axis, extent in enumerate(analysis.of(value))
    )
