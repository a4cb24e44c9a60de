"""Constants that depend on the places of a run: rows of a table that starts at place 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile import ops
from qcompile.errors import UnsupportedOpError
from qcompile.ir.graph import Graph, Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.onnx_import.lockstep import Twins
from qcompile.ops.causal_mask import CausalMaskAttrs
from qcompile.ops.rows_at import RowsAtAttrs

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Table:
    """A constant operand that depends on the places.

    Args:
        node: the reader.
        operand: which operand.
        axis: along which its rows belong to places.
        long: axes with as many elements as there are places so far.
        data: all rows, from place 0 on.
    """

    node: Node
    operand: int
    axis: int
    long: tuple[int, ...]
    data: Array


def tabulate(graph: Graph, twins: Twins) -> list[Table]:
    """Return the operands that depend on the places.

    Args:
        graph: at the largest size.
        twins: the same nodes at other lengths.

    Raises:
        UnsupportedOpError: a constant depends on the length in another way.
    """
    found = []
    for node in graph.nodes:
        if node not in twins.whole:
            continue
        for operand, value in enumerate(node.inputs):
            whole, small = (t[node].inputs[operand] for t in (twins.whole, twins.small))
            if value.is_constant and whole.is_constant and small.is_constant:
                table = _table(node, operand, (value.constant(), whole.constant(), small.constant()), twins)
                found += [table] if table is not None else []
            elif whole.is_constant or small.is_constant or value.is_constant:
                raise _refuse(node, operand, "is a constant at some lengths only")
    return found


def _table(node: Node, operand: int, arrays: tuple[Array, Array, Array], twins: Twins) -> Table | None:
    large, whole, small = arrays
    start = twins.total - twins.new
    if large.ndim != whole.ndim or large.ndim != small.ndim:
        raise _refuse(node, operand, "has other axes at other lengths")
    axes, long = [], []
    for axis, sizes in enumerate(zip(large.shape, whole.shape, small.shape, strict=True)):
        if sizes == (twins.new, twins.total, twins.sizes[1]):
            axes.append(axis)
        elif sizes == (twins.total, twins.total, sum(twins.sizes)):
            long.append(axis)
        elif len(set(sizes)) > 1:
            raise _refuse(node, operand, f"has {sizes[0]}, {sizes[1]} and {sizes[2]} elements on axis {axis}")
    cut = [slice(None)] * large.ndim
    for axis in axes:
        cut[axis] = slice(start, None)
    if not np.array_equal(whole[tuple(cut)], large, equal_nan=large.dtype.kind == "f"):
        raise _refuse(node, operand, "depends on the length in another way than row by row")
    changing = [axis for axis in axes if not _same_rows(whole, axis)]
    if not changing:
        return None
    if len(axes) > 1:
        raise _refuse(node, operand, "depends on the places along two axes")
    return Table(node, operand, axes[0], tuple(long), whole)


def _same_rows(array: Array, axis: int) -> bool:
    first = np.take(array, [0], axis)
    return np.array_equal(array, np.broadcast_to(first, array.shape), equal_nan=array.dtype.kind == "f")


def _refuse(node: Node, operand: int, what: str) -> UnsupportedOpError:
    where = node.loc or node.outputs[0].name
    return UnsupportedOpError(
        f"the model's caches cannot be kept: operand {operand} of node {where} ({node.op.name}) {what}",
        hint="caches of one length can be kept: give their inputs fixed extents with --input-shape",
    )


@dataclass
class Places:
    """Puts the look-up of tables into a graph.

    Args:
        rewriter: of the graph.
        length: filled places before the run, int64 [1].
        source: input that holds the new places.
        axis: along which it does.
        before: where the nodes go.
        total: places of a cache.
    """

    rewriter: Rewriter
    length: Value
    source: Value
    axis: int
    before: Node
    total: int

    def insert(self, tables: Sequence[Table]) -> None:
        """Let every operand that depends on the places be computed; equal ones once."""
        made: dict[tuple[Any, ...], Value] = {}
        for table in tables:
            key = (table.axis, table.long, table.data.dtype.name, table.data.shape, table.data.tobytes())
            if key not in made:
                made[key] = self._causal(table) or self._rows(table.data, table.axis, table.long, table.node, "places")
            self.rewriter.set_operand(table.node, table.operand, made[key])

    def _rows(self, data: Array, axis: int, long: tuple[int, ...], node: Node, name: str) -> Value:
        """Look up the rows of a table."""
        new = self.source.shape[self.axis]
        shape = (*data.shape[:axis], new, *data.shape[axis + 1 :])
        padding = [(0, new - 1 if a == axis else 0) for a in range(data.ndim)]
        table = self.rewriter.constant(f"{node.outputs[0].name}.{name}.table", np.pad(data, padding))
        attrs = RowsAtAttrs(axis, shape, self.axis, long)
        operands = [table, self.length, self.source]
        name = f"{node.outputs[0].name}.{name}"
        made = self.rewriter.insert(self.before, ops.get("rows_at"), operands, attrs, name=name, loc=node.loc)
        return made.output

    def _causal(self, table: Table) -> Value | None:
        """Compute a mask that has one value up to a place and another behind it; None for any other table."""
        data, axis = table.data, table.axis
        if len(table.long) != 1 or data.size != self.total**2:
            return None
        long = table.long[0]
        order = data.reshape(self.total, self.total) if axis < long else data.reshape(self.total, self.total).T
        seen, hidden = order[0, 0], order[0, -1]
        lower = np.tri(self.total, dtype=bool)
        if not np.array_equal(order, np.where(lower, seen, hidden)):
            return None
        name, insert, loc = table.node.outputs[0].name, self.rewriter.insert, table.node.loc
        shape = tuple(self.source.shape[self.axis] if a == axis else d for a, d in enumerate(data.shape))
        attrs = CausalMaskAttrs(axis, shape, self.axis, table.long)
        operands = [self.length, self.source]
        which = insert(self.before, ops.get("causal_mask"), operands, attrs, name=f"{name}.seen", loc=loc).output
        if data.dtype == np.bool_ and seen and not hidden:
            return which
        values = [self.rewriter.constant(f"{name}.{n}", np.asarray(v)) for n, v in (("seen", seen), ("hidden", hidden))]
        return insert(self.before, ops.get("where"), [which, *values], name=f"{name}.mask", loc=loc).output
