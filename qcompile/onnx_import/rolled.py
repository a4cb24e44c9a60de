"""Loops that stay loops: their body is converted once, and a run repeats it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.ir.graph import Node, Value
from qcompile.ir.regions import regions
from qcompile.onnx_import.counters import MOST_FOLLOWED
from qcompile.ops.layout import axis_indices
from qcompile.ops.loop_begin import MOST_TRIPS
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped

Array = npt.NDArray[Any]

_SMALL = 1024
"""Elements of a value that is followed through all iterations; shapes and places have fewer."""


class RolledLoop:
    """A region under construction: what is added to the graph until `close` is its body.

    Args:
        node: the ONNX node that asks for it.
        trips: iterations at most, at least one.
        name: prefix of its tensors.

    Attributes:
        iteration: the number of the iteration, int64 [].

    Raises:
        UnsupportedOpError: it is within another such loop, or extents are open.
    """

    def __init__(self, node: OnnxNode, trips: int, name: str) -> None:
        self.node, self.trips, self.name = node, min(trips, MOST_TRIPS), name
        ends = [n.op.region for n in node.graph.nodes if n.op.region]
        if ends and ends[-1] == "begin":
            node.fail("neither it nor the loop around it can be unrolled")
        if node.open is not None:
            hint = "give fixed input shapes with --input-shape"
            node.fail("a loop that is not unrolled needs extents that are all known", hint=hint)
        begin = ops.get("loop_begin")
        self._begin = node.graph.add_node(begin, [], begin.Attrs(self.trips), names=[f"{name}.t"], loc=node.name)
        self.iteration = self._begin.outputs[0]
        followed = np.arange(self.trips, dtype=np.int64) if self.trips <= MOST_FOLLOWED else None
        self._known: dict[Value, Array | None] = {self.iteration: followed}

    @staticmethod
    def fits(node: OnnxNode) -> bool:
        """Return whether a long loop stays one: none is around it, and the extents of its operands are known."""
        counted = node.counted is not None and node.counted.touches(node.inputs)
        fits = node.loop is None and node.open is None and not counted
        node.graph.unrolled = node.graph.unrolled or (fits and not node.keeps_loops)
        return fits and node.keeps_loops

    def state(self, start: Value, name: str) -> Value:
        """Return what an iteration starts from; the first one from `start`."""
        return self.node.graph.add_state(self._begin, start, f"{self.name}.{name}")

    def entry(self, table: Array, name: str) -> Value:
        """Return the iteration's entry of a table, [trips, …]."""
        rows = self.node.constant(name, table)
        value = self.node.add("gather", [rows, self.iteration], f"{self.name}.{name}", axis=0)
        self._known[value] = table
        return value

    def known(self, value: Value) -> Array | None:
        """Return what a value is in every iteration, [trips, …], where that follows from the iteration alone."""
        if value.data is not None:
            return np.broadcast_to(value.data, (self.trips, *value.shape))
        if value not in self._known:
            self._known[value] = self._followed(value)
        return self._known[value]

    def _followed(self, value: Value) -> Array | None:
        maker = value.producer
        if maker is None or maker.op.region or value.type.size > _SMALL or not self.makes(value):
            return None
        operands = [self.known(operand) for operand in maker.inputs]
        tables = [table for table in operands if table is not None]
        if len(tables) < len(operands):
            return None
        with np.errstate(all="ignore"):
            rows = [maker.op.evaluate(maker.attrs, [table[t] for table in tables]) for t in range(self.trips)]
        return np.stack([row[maker.outputs.index(value)] for row in rows])

    def part(self, node: OnnxNode) -> Value | None:
        """Return a Slice whose bounds the iteration decides, where it always takes as many elements; else None."""
        x, starts, ends = (node.value(k) for k in range(3))
        axes, steps = node.array_or_none(3, "axes"), node.array_or_none(4, "steps")
        first, last = self.known(starts), self.known(ends)
        if first is None or last is None:
            return None
        places = range(starts.type.size) if axes is None else axis_indices(axes, len(x.shape))
        for k, axis in enumerate(places):
            step = None if steps is None else int(steps.reshape(-1)[k])
            bounds = zip(first.reshape(self.trips, -1)[:, k], last.reshape(self.trips, -1)[:, k], strict=True)
            taken = [range(x.shape[axis])[int(a) : int(b) : step] for a, b in bounds]
            if len({len(numbers) for numbers in taken}) > 1 or not taken[0]:
                return None
            x = node.add("gather", [x, self.entry(np.array(taken, np.int64), f"part{k}")], axis=axis)
        return x

    def numbers(self, bounds: Sequence[Value]) -> Value | None:
        """Return a Range whose bounds the iteration decides, where it always has as many numbers; else None."""
        tables = [self.known(value) for value in bounds]
        known = [table.reshape(-1) for table in tables if table is not None]
        if len(known) < len(tables):
            return None
        counts = {math.ceil((limit - start) / delta) for start, limit, delta in zip(*known, strict=True)}
        if len(counts) > 1 or not 0 < min(counts) <= _SMALL:
            return None
        rows = [np.arange(*row) for row in zip(*known, strict=True)]
        return self.entry(np.array(rows, bounds[0].dtype), "numbers")

    def makes(self, value: Value) -> bool:
        """Return whether a value is computed in the body."""
        nodes = self.node.graph.nodes
        return value.producer is not None and value.producer in nodes[nodes.index(self._begin) :]

    def place(self, *, backward: bool = False) -> Value:
        """Return the step that the iteration makes, int64 []; `backward` counts from the last."""
        if not backward:
            return self.iteration
        last = self.node.constant("last_step", self.trips - 1, "int64")
        return self.node.add("sub", [last, self.iteration], f"{self.name}.from_end")

    def element(self, value: Value, axis: int, name: str, *, backward: bool = False) -> Value:
        """Return the iteration's slice of a tensor along an axis, without the axis."""
        return self.node.add("gather", [value, self.place(backward=backward)], name, axis=axis)

    def written(self, part: Value, name: str, *, backward: bool = False) -> tuple[Value, Value]:
        """Write what an iteration makes into a row of a tensor of all iterations.

        Args:
            part: what it makes.
            name: of the rows.
            backward: whether the first iteration writes the last row.

        Returns:
            A state for `close`: what it was, and what it becomes; the rows are [trips, elements of the part].
        """
        node, row = self.node, part.type.size
        if self.trips * part.type.nbytes > _ROWS_LIMIT:
            node.fail(f"the results of {self.trips} iterations of {part.type} would take too much memory")
        start = node.constant(f"{name}.start", np.zeros((self.trips, row), part.dtype))
        before = self.state(start, name)
        at = reshaped(node, self.place(backward=backward), (1,), f"{self.name}.{name}.at")
        flat = reshaped(node, part, (1, row), f"{self.name}.{name}.row")
        return before, node.add("scatter", [before, at, flat], f"{self.name}.{name}.rows", reduction="none")

    def close(
        self, states: Sequence[tuple[Value, Value]], condition: Value | None = None
    ) -> tuple[Value, dict[Value, Value]]:
        """End the body.

        Args:
            states: of each state what an iteration starts from, and what it makes of it.
            condition: whether to go on, bool; None where all trips run.

        Returns:
            How many iterations there were (int64 []), and by its start in an iteration each state after the last.
        """
        made = dict(states)
        results = [made.get(value, value) for value in self._begin.outputs[1:]]
        definition = ops.get("loop_end")
        operands = [self.iteration, *([] if condition is None else [condition]), *results]
        names = [f"{value.name}.last" for value in self._begin.outputs]
        attrs = definition.Attrs(condition is not None)
        end = self.node.graph.add_node(definition, operands, attrs, names=names, loc=self.node.name)
        _move_invariants(self.node.graph.nodes)
        return end.outputs[0], dict(zip(self._begin.outputs[1:], end.outputs[1:], strict=True))


_ROWS_LIMIT = 2**31
"""Bytes of what all iterations of a loop make; more is a mistake of the model."""


def _move_invariants(nodes: list[Node]) -> None:
    """Move what no iteration changes before the last loop of a list of nodes."""
    region = regions(nodes)[-1]
    changing = set(region.begin.outputs)
    kept, moved = [region.begin], []
    for node in region.nodes[1:]:
        if node is region.end or not changing.isdisjoint(node.inputs):
            changing.update(node.outputs)
            kept.append(node)
        else:
            moved.append(node)
    nodes[region.first : region.first + len(region.nodes)] = [*moved, *kept]


def stacked(node: OnnxNode, rows: Value, part: Value, axis: int, name: str) -> Value:
    """Return the results of all iterations along a new axis.

    Args:
        node: the ONNX node that asks for it.
        rows: as the loop left them, [trips, elements of the part].
        part: what one iteration makes.
        axis: the new one.
        name: of the result.
    """
    shape = (rows.shape[0], *part.shape)
    if axis == 0:
        return reshaped(node, rows, shape, name)
    whole = reshaped(node, rows, shape, f"{name}.rows")
    order = list(range(1, len(shape)))
    order.insert(axis, 0)
    return node.add("transpose", [whole], name, perm=tuple(order))
