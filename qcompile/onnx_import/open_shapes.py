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
from qcompile.ir.symbol import JOINT, Axes, Extent, Positions, Symbol
from qcompile.ops.elementwise import Binary, Unary
from qcompile.ops.evaluation import evaluate_node
from qcompile.ops.open_extent import OpenExtentAttrs
from qcompile.shapes.analysis import advance, input_axes
from qcompile.shapes.step import Analysis

Array = npt.NDArray[Any]


_MOVING = ("concat", "reshape")
"""Operations whose results have the first elements of an operand elsewhere."""


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
        self._leading: dict[Value, Axes] = {}
        self._tables: dict[tuple[Value, str], list[Array]] = {}

    def extent(self, value: Value, axis: int) -> Extent | None:
        """Return the open extent of a tensor's axis, None where it is fixed or not known."""
        if value in self._leading:
            return self._leading[value][axis]
        self._advance()
        return self._analysis.of(value)[axis]

    def only_extent(self, size: int) -> Extent | None:
        """Return the open extent that a repetition to a size is taken to follow, None where there is not just one."""
        self._advance()
        return self._analysis.only_extent(size)

    def _advance(self) -> None:
        """Analyse the nodes that are new."""
        for node in self._graph.nodes[self._seen :]:
            self._seen += 1
            try:
                advance(self._analysis, node)
            except UnsupportedOpError:
                # Nobody may need the node; if somebody does, the import ends with this very error.
                continue

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
        led = [value for value in inputs if value in self._leading]
        if led:
            mixed = any(value in self._twins for value in inputs)
            axes = None if mixed else self._led(op, inputs, attrs, results[0])
            if axes is not None:
                self._leading[results[0]] = axes
            elif op.name in _MOVING:
                for value in led:
                    self.end(value)
        if not any(v in self._twins for v in inputs):
            return
        names = [f"{value.name}.live" for value in results]
        node = self._graph.add_node(op, self.operands(op, inputs), attrs, names=names, loc=loc)
        self._twins.update(zip(results, node.outputs, strict=True))

    def operands(self, op: OpDef, inputs: Sequence[Value]) -> list[Value]:
        """Return what a node that runs reads in place of constants.

        An elementwise result has the open extents of its operands that are computed. On an axis where these have none,
        such as that of [0, 1, …] compared with one length, a constant of which the first elements matter must end
        itself.
        """
        if isinstance(op, Binary) or op.name == "where":
            for value in [value for value in inputs if value in self._leading]:
                others = [self.live(v) for v in inputs if v not in self._leading]
                reached = {a - len(v.shape) for v in others for a in range(len(v.shape)) if self.extent(v, a)}
                places = enumerate(self._leading[value], -len(value.shape))
                if any(extent is not None and place not in reached for place, extent in places):
                    self.end(value)
        return [self.live(value) for value in inputs]

    def lead(self, constant: Value, axes: Axes) -> None:
        """Note that the actual sizes take the first elements of a constant, and of how many on each axis.

        It needs no twin as long as what reads it does just that; where it is joined with others along such an axis,
        or its axes with each other, they lie at other places.
        """
        known = self._leading.get(constant, (None,) * len(axes))
        if any(axes):
            self._leading[constant] = tuple(a or b for a, b in zip(axes, known, strict=True))

    def end(self, constant: Value) -> None:
        """Give a constant a twin that ends where it does at the actual sizes."""
        for axis, extent in enumerate(self._leading.pop(constant, ())):
            if extent is not None:
                self.cut(constant, axis, extent)

    def _led(self, op: OpDef, inputs: Sequence[Value], attrs: Any, result: Value) -> Axes | None:
        """Return of how many first elements a result is at the actual sizes, None where they are not its first."""
        axes = self._broadcast(inputs, len(result.shape))
        if isinstance(op, (Unary, Binary)) or op.name in ("cast", "where", "expand"):
            return axes
        if op.name == "concat":
            return axes if axes[attrs.axis] is None else None
        own = self._leading.get(inputs[0], ())
        if op.name == "transpose":
            return tuple(own[axis] for axis in attrs.perm)
        if op.name == "reshape":
            return _unsqueezed(inputs[0].shape, own, result.shape)
        if op.name == "gather" and not own:
            rest: Axes = (None,) * (len(inputs[0].shape) - attrs.axis - 1)
            return (*(None,) * attrs.axis, *self._leading[inputs[1]], *rest)
        return None

    def _broadcast(self, inputs: Sequence[Value], rank: int) -> Axes:
        """Return how many first elements of what is computed element by element matter."""
        found: list[Extent | None] = [None] * rank
        for value in inputs:
            own = self._leading.get(value, ())
            for axis, extent in enumerate(own, rank - len(own)):
                found[axis] = extent or found[axis]
        return tuple(found)

    def wanted(self, shape: Value, place: int) -> Extent | None:
        """Return the open extent that one number of a constant shape follows, None where it is fixed.

        Raises:
            ValueError: it is largest elsewhere than at the largest sizes, which memory is planned for.
        """
        symbols = sorted(self.symbols(shape, place))
        if not symbols:
            return None
        symbol = JOINT.join(symbols)
        extent = Extent(symbol, tuple(int(array.reshape(-1)[place]) for array in self.table(shape, symbol)))
        if max(extent.table) > extent.most:
            raise ValueError(f"extent {place} of its result is not largest at the largest '{symbol}'")
        return extent

    def shape(self, x: Value, axes: range, constant: Value) -> None:
        """Give the shape of a tensor its twin.

        Args:
            x: the tensor.
            axes: those that the shape lists.
            constant: the shape at the largest sizes.
        """
        extents = [self.extent(self.live(x), axis) for axis in axes]
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

    def range(self, bounds: Sequence[Value], constant: Value) -> None:
        """Note how many numbers from a start on there are at the actual sizes.

        Args:
            bounds: start, limit and delta, constants of one number.
            constant: start + delta · [0, 1, …] at the largest sizes.

        Raises:
            ValueError: they are most numerous elsewhere than at the largest sizes.
        """
        symbols = sorted(set().union(*(self.symbols(value, 0) for value in bounds)))
        if not symbols:
            return
        tables = [self.table(value, JOINT.join(symbols)) for value in bounds]
        counts = tuple(np.arange(*(a.item() for a in numbers)).size for numbers in zip(*tables, strict=True))
        if max(counts) > constant.type.size:
            raise ValueError(f"{max(counts)} numbers, and {constant.type.size} at the largest sizes")
        extent = Extent(JOINT.join(symbols), counts)
        start, _, delta = (self.live(value) for value in bounds)
        if start.is_constant and delta.is_constant:
            self.lead(constant, (extent,))
            return
        steps = self._graph.add_constant(f"{constant.name}.steps", np.arange(constant.type.size, dtype=constant.dtype))
        found = self._part(steps, 0, extent, f"{constant.name}.live")
        for op, operand in (("mul", delta), ("add", start)):
            operation, names = ops.get(op), [f"{constant.name}.{op}"]
            found = self._graph.add_node(operation, [found, operand], operation.Attrs(), names=names).output
        self._twins[constant] = found

    def cut(self, value: Value, axis: int, extent: Extent) -> Value:
        """Return a tensor that ends at an open extent on one axis; a constant stays itself, its twin ends there."""
        live = self.live(value)
        found = self._part(live, axis, extent, f"{live.name}.cut{axis}")
        if not value.is_constant:
            return found
        self._twins[value] = found
        self._leading.pop(value, None)
        return value

    def _part(self, value: Value, axis: int, extent: Extent, name: str) -> Value:
        """Return the first elements of a tensor's axis."""
        operation, zeros = ops.get("open_slice"), (0,) * len(extent.table)
        attrs = operation.Attrs(symbol=extent.symbol, axis=axis, starts=zeros, sizes=extent.table)
        return self._graph.add_node(operation, [value], attrs, names=[name]).output

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


def _unsqueezed(old: Sequence[int], axes: Axes, new: Sequence[int]) -> Axes | None:
    """Return the open extents of a tensor that got or lost axes of one element, None where others changed."""
    if [d for d in old if d != 1] != [d for d in new if d != 1] or any(
        e is not None and d == 1 for e, d in zip(axes, old, strict=True)
    ):
        return None
    kept = iter(extent for extent, d in zip(axes, old, strict=True) if d != 1)
    return tuple(next(kept) if d != 1 else None for d in new)


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
