"""Runs a graph with open extents in NumPy at the sizes of given inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qcompile.ir.graph import Graph, Node, Value
from qcompile.ops.evaluation import Array, FixedRun, OnValue, Prepare, prepared
from qcompile.shapes.analysis import positions
from qcompile.shapes.specialize import Specializer, padded, sizes_of

Sizes = dict[str, int]


def sizes_from(graph: Graph, inputs: Mapping[str, Array]) -> Sizes:
    """Return the value of each symbol: the shapes of inputs tell it, and the lengths of what is kept."""
    lengths = [symbol.past for symbol in graph.symbols if symbol.past in inputs]
    kept = {name: int(np.asarray(inputs[name]).reshape(-1)[0]) for name in lengths}
    return sizes_of(graph, {name: np.shape(array) for name, array in inputs.items()}, kept)


class NodeRun:
    """Evaluates single nodes of a graph at the sizes of one sample after another.

    Args:
        graph: any; one with symbols before its masks are made.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._specializer = Specializer(graph) if graph.symbols else None
        self._at: Sizes | None = None
        self._known: dict[tuple[Node, tuple[Value, ...]], Node] = {}

    def sizes(self, sample: Mapping[str, Array]) -> Sizes | None:
        """Return the sizes of a sample, None where the graph has no open extents."""
        return sizes_from(self._graph, sample) if self._specializer is not None else None

    def evaluate(self, node: Node, operands: Sequence[Array | None], sizes: Sizes | None) -> tuple[Array, ...]:
        """Compute one node.

        Args:
            node: of the graph.
            operands: of the actual extents; None for a constant as the graph has it.
            sizes: of the sample.
        """
        return tuple(self.prepared(node, sizes)(list(operands)))

    def prepared(self, node: Node, sizes: Sizes | None, over: bool = False) -> Callable[..., Sequence[Array]]:
        """Return what computes one node from a list of operands, None for constants, which it fills in there.

        Args:
            node: as for `evaluate`.
            sizes: as there.
            over: as for `qcompile.ops.evaluation.prepared`.
        """
        if self._specializer is not None and sizes is not None:
            node = self._node_at(node, sizes)
        apply, values = prepared(node, over), node.inputs
        # Loops run this often: of an operand that is computed there is nothing to ask.
        constants = [(index, value) for index, value in enumerate(values) if value.is_constant]

        def filled(operands: list[Array | None]) -> Sequence[Array]:
            for index, value in constants:
                operands[index] = _operand(operands[index], value)
            return apply(operands)  # type: ignore[arg-type]

        return filled if constants else apply

    def _node_at(self, node: Node, sizes: Sizes) -> Node:
        assert self._specializer is not None
        if sizes != self._at:
            self._at, self._known = sizes, {}
        key = (node, tuple(node.inputs))
        if key not in self._known:
            self._known[key] = self._specializer.node_at(node, sizes)
        return self._known[key]


def _operand(given: Array | None, value: Value) -> Array:
    """Return what stands for a constant; what does for one of the largest size is cut as that is."""
    if given is None:
        return value.constant()
    return given if given.shape == value.shape else given[tuple(map(slice, value.shape))]


class SizedRun:
    """Evaluates a graph at one size after another.

    Before its masks are made, a graph means what its twin of the actual size does. With masks it is evaluated as a
    kernel does it: at the largest size, with zeros past the end of each input.

    Args:
        graph: with symbols.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._specializer = Specializer(graph)
        self._outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        self._caches = {state.output for state in graph.states if state.in_place}

    def run(
        self,
        inputs: Mapping[str, Array],
        on_value: OnValue | None,
        prepare: Prepare,
    ) -> dict[str, Array]:
        """Evaluate the graph once; see `Interpreter.run`.

        Args:
            inputs: one array per graph input, by name; open axes have their actual extents.
            on_value: called with every tensor of the graph, without what lies past the end.
            prepare: returns what computes a node.
        """
        sizes = sizes_from(self._graph, inputs)
        if self._graph.extents:
            return self._masked(sizes, inputs, on_value, prepare)
        graph, originals = self._specializer.at(sizes)
        show = None if on_value is None else lambda value, array: on_value(originals[value], array)
        results = FixedRun(graph).run(inputs, show, prepare)
        return {n: padded(results[n], v.shape) if n in self._caches else results[n] for n, v in self._outputs.items()}

    def extents(self, sizes: Mapping[str, int]) -> Array:
        """Return what the input with the actual extents holds."""
        at = positions(self._graph, sizes)
        return np.array([extent.table[at[extent.symbol]] for extent in self._graph.extents], np.int32)

    def _masked(
        self,
        sizes: Mapping[str, int],
        inputs: Mapping[str, Array],
        on_value: OnValue | None,
        prepare: Prepare,
    ) -> dict[str, Array]:
        shapes = {v.name: (v, self._specializer.shape(v, sizes)) for v in self._graph.inputs[:-1]}
        full = {n: _filled(a, *shapes[n]) if n in shapes else a for n, a in inputs.items()}
        full[self._graph.inputs[-1].name] = self.extents(sizes)

        def cut(value: Value, array: Array) -> Array:
            return np.ascontiguousarray(array[tuple(map(slice, self._specializer.shape(value, sizes)))])

        show = None if on_value is None else lambda value, array: on_value(value, cut(value, array))
        results = FixedRun(self._graph).run(full, show, prepare)
        return {n: results[n] if n in self._caches else cut(v, results[n]) for n, v in self._outputs.items()}


def _filled(array: Array, value: Value, shape: tuple[int, ...]) -> Array:
    """Return an array of the actual extents in the largest ones; others are left for the interpreter to refuse."""
    array = np.asarray(array)
    return padded(array, value.shape) if array.shape == shape else array
