"""Arithmetic on shapes that are open: what follows from an open extent, beside its value at the largest sizes.

At import every shape is a constant, that of the largest sizes. A constant computed from an open extent gets a twin
that is computed when the network runs. Shapes of results use the constant; where a tensor of the network meets such a
number (a division by the length, the index of the last element), it reads the twin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Value
from qcompile.ir.opdef import OpDef
from qcompile.ir.symbol import JOINT, Extent, Positions, Symbol
from qcompile.ops.evaluation import evaluate_node
from qcompile.ops.open_extent import OpenExtentAttrs
from qcompile.shapes.analysis import advance, input_axes
from qcompile.shapes.step import Analysis

Array = npt.NDArray[Any]


class OpenShapes:
    """Knows the open extents of a graph under construction.

    Args:
        graph: with symbols and inputs, no nodes yet.

    Attributes:
        looping: symbols that the loops being unrolled run along.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._analysis = Analysis(input_axes(graph))
        self._seen = 0
        self.looping: list[str] = []
        self._twins: dict[Value, Value] = {}
        self._tables: dict[tuple[Value, str], list[Array]] = {}

    def extent(self, value: Value, axis: int) -> Extent | None:
        """Return the open extent of a tensor's axis, None where it is fixed or not known."""
        for node in self._graph.nodes[self._seen :]:
            self._seen += 1
            try:
                advance(self._analysis, node)
            except UnsupportedOpError:
                # Nobody may need the node; if somebody does, the import ends with this very error.
                continue
        return self._analysis.of(value)[axis]

    def live(self, value: Value) -> Value:
        """Return what computes a constant at the actual sizes, the constant itself where these do not matter."""
        return self._twins.get(value, value)

    def follow(self, op: OpDef, inputs: Sequence[Value], attrs: Any, results: Sequence[Value], loc: str) -> None:
        """Give constants that were just computed their twins.

        Args:
            op: what computed them.
            inputs: its operands, constants.
            attrs: its attributes.
            results: constants.
            loc: ONNX node name.
        """
        if not any(v in self._twins for v in inputs):
            return
        names = [f"{value.name}.live" for value in results]
        node = self._graph.add_node(op, [self.live(v) for v in inputs], attrs, names=names, loc=loc)
        self._twins.update(zip(results, node.outputs, strict=True))

    def shape(self, x: Value, axes: range, constant: Value) -> None:
        """Give the shape of a tensor its twin.

        Args:
            x: the tensor.
            axes: those that the shape lists.
            constant: the shape at the largest sizes.
        """
        extents = [self.extent(x, axis) for axis in axes]
        if not any(extents):
            return
        parts = [
            self._graph.add_constant(f"{constant.name}.part", np.array([x.shape[axis]], np.int64))
            if extent is None
            else self.number(extent)
            for axis, extent in zip(axes, extents, strict=True)
        ]
        if len(parts) > 1:
            concat = ops.get("concat")
            parts = [self._graph.add_node(concat, parts, concat.Attrs(axis=0), names=[f"{constant.name}.live"]).output]
        self._twins[constant] = parts[0]

    def number(self, extent: Extent) -> Value:
        """Return an open extent as a tensor of one int64 number."""
        attrs = OpenExtentAttrs(extent.symbol, extent.table)
        return self._graph.add_node(ops.get("open_extent"), [], attrs, names=[f"{extent.symbol}.extent"]).output

    def symbols(self, value: Value | None, place: int) -> set[str]:
        """Return the symbols that one element of a constant vector follows from."""
        if value is None:
            return set()
        return {
            symbol.name
            for symbol in self._graph.symbols
            if len({array.reshape(-1)[place].item() for array in self.table(value, symbol.name)}) > 1
        }

    def count(self, symbol: str) -> int:
        """Return how many values a symbol has; a joint one, combinations of them."""
        counts = {s.name: len(s.values) for s in self._graph.symbols}
        return math.prod(counts[part] for part in symbol.split(JOINT))

    def table(self, value: Value, symbol: str) -> list[Array]:
        """Return what a constant is for each value of one symbol, joint or not, at the largest of the others."""
        live = self.live(value)
        if live is value:
            return [value.constant()] * self.count(symbol)
        key = (value, symbol)
        if key not in self._tables:
            counts = {s.name: len(s.values) for s in self._graph.symbols}
            parts = symbol.split(JOINT)
            largest = {name: count - 1 for name, count in counts.items()}
            places = itertools.product(*(range(counts[part]) for part in parts))
            self._tables[key] = [
                _computed(live, Positions({**largest, **dict(zip(parts, place, strict=True))}, counts), {})
                for place in places
            ]
        return self._tables[key]


def _computed(value: Value, at: Positions, known: dict[Value, Array]) -> Array:
    """Compute a twin where each symbol has one of its values."""
    if value.data is not None:
        return value.data
    node = value.producer
    assert node is not None
    if value not in known:
        if node.op.name == "open_extent":
            known[value] = node.op.evaluate(replace(node.attrs, at=at[node.attrs.symbol]), [])[0]
        else:
            with np.errstate(all="ignore"):
                results = evaluate_node(node, [_computed(v, at, known) for v in node.inputs])
            known.update(zip(node.outputs, results, strict=True))
    return known[value]


def open_shapes(graph: Graph, symbols: Sequence[Symbol]) -> OpenShapes | None:
    """Note the symbols of a graph whose inputs are made; return what follows them, None where there are none."""
    graph.symbols = tuple(symbols)
    return OpenShapes(graph) if symbols else None
