"""A graph with open extents at one size: what it means there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import UsageError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.sized import Sized
from qcompile.ir.symbol import Axes, Symbol
from qcompile.shapes.analysis import actual, analyse, positions
from qcompile.shapes.step import Analysis


def sizes_of(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], kept: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the value of each symbol that the shapes of inputs, and the kept lengths, tell.

    Args:
        graph: with symbols.
        shapes: extents by input name.
        kept: filled places of growing sequences, by name of the input that counts them.

    Raises:
        UsageError: two axes of one symbol differ, or a value is out of its bounds.
    """
    sizes = {symbol.name: _size(symbol, shapes) for symbol in graph.symbols if not symbol.past}
    for symbol in graph.symbols:
        if symbol.past:
            sizes[symbol.name] = _length(symbol, sizes, (kept or {}).get(symbol.past))
    return sizes


def _length(symbol: Symbol, sizes: Mapping[str, int], past: int | None) -> int:
    """Return the length of a growing sequence after a run; the largest where nobody knows its past."""
    if past is None:
        return symbol.most
    length = past + (int(symbol.new) if symbol.new.isdigit() else sizes[symbol.new])
    if past < 0 or length > symbol.most:
        raise UsageError(
            f"the sequence would have {length} places, the model keeps {symbol.most}",
            hint="start anew, or compile with a larger --max-length",
        )
    return length


def _size(symbol: Symbol, shapes: Mapping[str, tuple[int, ...]]) -> int:
    found: dict[int, str] = {}
    for name, axis in symbol.places:
        if name in shapes and axis < len(shapes[name]):
            found.setdefault(shapes[name][axis], f"axis {axis} of '{name}'")
    if len(found) > 1:
        listed = " and ".join(f"{size} on {where}" for size, where in found.items())
        raise UsageError(f"'{symbol.name}' is {listed}", hint="all axes of one name have the same extent")
    size = next(iter(found), symbol.most)
    if size not in symbol.values:
        every = f" in steps of {symbol.step}" if symbol.step > 1 else ""
        raise UsageError(
            f"'{symbol.name}' is {size} on {found[size]}, the model takes {symbol.least} to {symbol.most}{every}",
            hint="compile it with a larger bound" if size > symbol.most else None,
        )
    return size


class Specializer:
    """Makes the graph of one size after another.

    Args:
        graph: with symbols, without masks; read only.
    """

    def __init__(self, graph: Graph, analysis: Analysis | None = None) -> None:
        self.graph = graph
        self.analysis = analysis or analyse(graph)
        self._known: dict[tuple[tuple[str, int], ...], tuple[Graph, dict[Value, Value]]] = {}

    def shape(self, value: Value, sizes: Mapping[str, int], axes: Axes | None = None) -> tuple[int, ...]:
        """Return the actual extents of a tensor.

        Args:
            value: of the graph.
            sizes: value of each symbol.
            axes: open extents, by default those of the tensor itself.
        """
        opened = self.analysis.of(value) if axes is None else axes
        at = positions(self.graph, sizes)
        return tuple(actual(e, d, at) for e, d in zip(opened, value.shape, strict=True))

    def at(self, sizes: Mapping[str, int]) -> tuple[Graph, dict[Value, Value]]:
        """Return the graph at some sizes, and which of its values stands for which value of the original."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._made(sizes)
        return self._known[key]

    def _made(self, sizes: Mapping[str, int]) -> tuple[Graph, dict[Value, Value]]:
        copy = Graph(self.graph.name)
        copy.notes, copy.states, copy.counted = list(self.graph.notes), self.graph.states, self.graph.counted
        twins: dict[Any, Value] = {}
        at = positions(self.graph, sizes)

        def twin(value: Value, axes: Axes | None = None) -> Value:
            shape = self.shape(value, sizes, axes)
            if (value, shape) not in twins:
                twins[value, shape] = _twin(value, copy.unique_name(value.name), shape)
            return twins[value, shape]

        copy.inputs = [twin(value) for value in self.graph.inputs]
        for node in self.graph.nodes:
            new = self._twin_node(node, twin, at)
            for output in new.outputs:
                output.producer = new
            for index, value in enumerate(new.inputs):
                value.uses.append((new, index))
            copy.nodes.append(new)
        copy.set_outputs([twin(v) for v in self.graph.outputs], self.graph.output_names)
        return copy, {new: old for (old, _), new in twins.items()}

    def node_at(self, node: Node, sizes: Mapping[str, int]) -> Node:
        """Return one node at some sizes, of no graph; its operands' producers are not known.

        Args:
            node: of the graph; it may have other constants by now.
            sizes: value of each symbol.
        """

        def twin(value: Value, axes: Axes | None = None) -> Value:
            return _twin(value, value.name, self.shape(value, sizes, axes))

        return self._twin_node(node, twin, positions(self.graph, sizes))

    def _twin_node(self, node: Node, twin: Callable[..., Value], at: Mapping[str, int]) -> Node:
        inputs = [twin(v, self.analysis.slices.get((node, k))) for k, v in enumerate(node.inputs)]
        outputs = [twin(v) for v in node.outputs]
        new = Node(node.op, inputs, outputs, sized_attrs(node, outputs[0].shape, at), node.loc)
        new.precision = node.precision
        return new


_KEPT = 16


def _twin(value: Value, name: str, shape: tuple[int, ...]) -> Value:
    """Return a value of another shape; a constant has the first elements."""
    data = value.data
    if data is not None and shape != value.shape:
        data = data[tuple(map(slice, shape))].copy()
    new = Value(name, value.type.with_shape(shape), data)
    new.qspec, new.qparams, new.stats = value.qspec, value.qparams, value.stats
    if shape == value.shape:
        new.steps = value.steps
    return new


def sized_attrs(node: Node, shape: tuple[int, ...], at: Mapping[str, int]) -> Any:
    """Return a node's attributes for another shape of its result.

    Args:
        node: of the graph of the largest sizes.
        shape: of its first result.
        at: which of its values each symbol has, counted from 0.
    """
    name, attrs = node.op.name, node.attrs
    if isinstance(node.op, Sized):
        return node.op.at_sizes(attrs, at)
    if name in ("reshape", "expand"):
        return replace(attrs, shape=shape)
    if name == "slice":
        return replace(attrs, sizes=shape)
    if name in ("rows_at", "causal_mask"):
        return replace(attrs, shape=shape)
    if name == "cache_append":
        return replace(attrs, rows=shape[attrs.axis])
    if name == "resize":
        return replace(attrs, size=shape[1:3] if attrs.layout == "NHWC" else shape[2:4])
    return attrs


def padded(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an array with zeros appended to its axes."""
    result = np.zeros(shape, array.dtype)
    result[tuple(map(slice, array.shape))] = array
    return result


def at_middle(graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the first elements of inputs of the largest sizes: as many as the middle value of each symbol says."""
    result = dict(inputs)
    for symbol in graph.symbols:
        for name, axis in symbol.places:
            cut = [slice(None)] * axis + [slice(symbol.values[len(symbol.values) // 2])]
            result[name] = np.ascontiguousarray(result[name][tuple(cut)])
    return result
