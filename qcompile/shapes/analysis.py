"""Finds the open extent of every axis in a graph, and where the elements past the actual end would be seen.

The graph has the types of the largest sizes. At a smaller size each tensor holds its elements at the same places,
and what lies past the actual end of an open axis is of no meaning. Most operations compute each element from
elements at the same place, and need nothing. Those that mix elements along an open axis must see neutral ones past
its end: `Analysis.masks` lists these.
"""

from __future__ import annotations

from collections.abc import Mapping

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.symbol import Axes, Extent, Positions
from qcompile.shapes.rules import rule_for
from qcompile.shapes.step import Analysis, Step

GROWING = ("cache_append", "rows_at", "causal_mask")
"""Operations that know the length of a growing sequence by themselves."""


def input_axes(graph: Graph) -> dict[Value, Axes]:
    """Return the open extents of the graph's inputs."""
    found: dict[Value, Axes] = {}
    for value in graph.inputs:
        axes: list[Extent | None] = [None] * len(value.shape)
        for symbol in graph.symbols:
            for name, axis in symbol.places:
                if name == value.name:
                    axes[axis] = Extent(symbol.name, tuple(symbol.values))
        if any(axes):
            found[value] = tuple(axes)
    return found


def analyse(graph: Graph) -> Analysis:
    """Find the open extents of a graph.

    Args:
        graph: with symbols; read only.

    Raises:
        UnsupportedOpError: an operation cannot serve all sizes; the message names it.
    """
    analysis = Analysis(input_axes(graph))
    for node in graph.nodes:
        advance(analysis, node)
    return analysis


def advance(analysis: Analysis, node: Node) -> None:
    """Find the open extents of one node's results.

    Args:
        analysis: of all nodes before it; receives what is found.
        node: the next one.

    Raises:
        UnsupportedOpError: the operation cannot serve all sizes.
    """
    step = Step(node, analysis)
    opens = node.op.sized or node.op.name in GROWING or bool(getattr(node.attrs, "opens", ()))
    if not opens and not any(any(axes) for axes in step.axes):
        return
    rule = rule_for(node.op.name)
    if rule is None:
        raise step.refuse("it mixes elements in a way that has no form for it")
    for value, axes in zip(node.outputs, rule(step), strict=True):
        _check(step, value, axes)
        if any(axes):
            analysis.axes[value] = axes


def _check(step: Step, value: Value, axes: Axes) -> None:
    if len(axes) != len(value.shape):
        raise step.refuse("its result has other axes than its operand")
    for extent, size in zip(axes, value.shape, strict=True):
        if extent is not None and extent.most != size:
            raise step.refuse(f"an axis of {size} elements would have {extent.most}", extent)
        if extent is not None and extent.least < 0:
            raise step.refuse("an axis would have fewer than no elements at the smallest size", extent)


def actual(extent: Extent | None, size: int, positions: Mapping[str, int]) -> int:
    """Return the extent of an axis at given sizes.

    Args:
        extent: open extent, or None.
        size: extent in the graph's own types.
        positions: which of its values each symbol has, counted from 0.
    """
    return size if extent is None else extent.table[positions[extent.symbol]]


def positions(graph: Graph, sizes: Mapping[str, int]) -> Positions:
    """Return which of its values each symbol has.

    Args:
        graph: with symbols.
        sizes: value of each symbol, one that is allowed.
    """
    known = {symbol.name: symbol.values.index(sizes[symbol.name]) for symbol in graph.symbols}
    return Positions(known, {symbol.name: len(symbol.values) for symbol in graph.symbols})
