"""Operators of whose results the data decide the size: what is not zero, what is there but once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.scatter import scattered

MOST_COLUMNS = 64
"""Elements of a row that rows are sorted by, one after the other."""


def _non_zero(node: OnnxNode) -> Value:
    x, base = node.value(0), node.outputs[0]
    if x.data is not None and not node.counted.touches([x]):
        return node.constant("positions", np.array(np.nonzero(x.data)).reshape(max(x.data.ndim, 1), -1), "int64")
    if any(node.counted.axes(x)[1:]):
        node.fail("the data decide an extent of its operand that is not the first one")
    flat = reshaped(node, x, (x.type.size,), f"{base}.flat")
    found = node.counted.positions(node, _flags(node, flat))
    rows, inner = [], 1
    for axis in reversed(range(len(x.shape))):
        number = found
        if inner > 1:
            number = node.add("div", [number, node.constant(f"inner{axis}", inner, "int64")], f"{base}.over{axis}")
        if axis > 0:
            extent = node.constant(f"extent{axis}", x.shape[axis], "int64")
            number = node.add("mod", [number, extent], f"{base}.axis{axis}")
        rows.append(reshaped(node, number, (1, *found.shape), f"{base}.row{axis}"))
        inner *= x.shape[axis]
    if not rows:
        rows = [reshaped(node, found, (1, *found.shape), f"{base}.row")]
    return node.add("concat", rows[::-1], base, axis=0) if len(rows) > 1 else rows[0]


def _flags(node: OnnxNode, x: Value) -> Value:
    """Return whether elements are not zero."""
    if x.dtype == "bool":
        return x
    base = node.outputs[0]
    zero = node.add("equal", [x, node.constant("zero", 0, x.dtype)], f"{base}.zero")
    return node.add("logical_not", [zero], f"{base}.flags")


def _unique(node: OnnxNode) -> tuple[Value, ...]:
    """Import Unique: rows are sorted, and each counts that differs from the one before it."""
    x, base = node.value(0), node.outputs[0] or node.name
    if any(node.counted.axes(x)):
        node.fail("the data decide an extent of its operand")
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape)) if "axis" in node.attributes else None
    count = x.type.size if axis is None else x.shape[axis]
    if axis is None:
        rows = reshaped(node, x, (count, 1), f"{base}.rows")
    else:
        perm = (axis, *(a for a in range(len(x.shape)) if a != axis))
        front = node.add("transpose", [x], f"{base}.front", perm=perm)
        rows = reshaped(node, front, (count, x.type.size // max(count, 1)), f"{base}.rows")
    order = _order(node, rows)
    new, group = _groups(node, rows, order)
    # The first of equal elements comes first in the order: where groups begin, it names their first occurrence.
    first = node.add("gather", [order, node.counted.positions(node, new)], f"{base}.first", axis=0)
    zeros = node.constant("zeros", np.zeros(count, np.int64))
    inverse = scattered(_plain(node, f"{base}.inverse"), zeros, order, group, 1)
    counts = _members(node, group, first)
    if not node.attr("sorted", 1):
        # The groups in the order of their first occurrence.
        seen = node.add("rank", [first], f"{base}.seen", axis=0, largest=False)
        place = node.counted.declare(
            node.add("place_of_rank", [seen], f"{base}.place", axis=0, count=first.shape[0]), node.counted.axes(first)
        )
        first, counts = (node.add("gather", [v, place], f"{base}.by_place", axis=0) for v in (first, counts))
        inverse = node.add("gather", [seen, inverse], f"{base}.inverse_by_place", axis=0)
        inverse = node.add("cast", [inverse], f"{base}.inverse_seen", dtype="int64")
    whole = reshaped(node, x, (count,), f"{base}.whole") if axis is None else x
    return node.add("gather", [whole, first], base, axis=axis or 0), first, inverse, counts


def _plain(node: OnnxNode, name: str, **attributes: str) -> OnnxNode:
    """Return the same node for one of its results."""
    return replace(node, attributes=dict(attributes), outputs=[name])


def _order(node: OnnxNode, rows: Value) -> Value:
    """Return the numbers of rows as they are sorted, the first of equal ones first."""
    base, (count, columns) = node.outputs[0] or node.name, rows.shape
    if columns > MOST_COLUMNS:
        node.fail(f"rows of {columns} elements; at most {MOST_COLUMNS} are sorted by")
    order: Value = node.constant("order", np.arange(count), "int64")
    for column in reversed(range(columns)):
        whole = node.add("gather", [rows, node.constant(f"c{column}", column, "int64")], f"{base}.column", axis=1)
        keys = node.add("gather", [whole, order], f"{base}.keys", axis=0)
        rank = node.add("rank", [keys], f"{base}.rank", axis=0, largest=False)
        place = node.add("place_of_rank", [rank], f"{base}.sorted", axis=0, count=count)
        order = node.add("gather", [order, place], f"{base}.order", axis=0)
    return order


def _groups(node: OnnxNode, rows: Value, order: Value) -> tuple[Value, Value]:
    """Return where a row differs from the one before it in the order, and the number of its group."""
    base, count = node.outputs[0] or node.name, rows.shape[0]
    ordered = node.add("gather", [rows, order], f"{base}.ordered", axis=0)
    before = node.constant("before", np.maximum(np.arange(count) - 1, 0), "int64")
    same = node.add(
        "equal", [ordered, node.add("gather", [ordered, before], f"{base}.previous", axis=0)], f"{base}.same"
    )
    number = node.add("cast", [same], f"{base}.equal", dtype="int32")
    least = node.add("reduce_min", [number], f"{base}.all", axes=(1,), keepdims=False)
    differs = node.add("equal", [least, node.constant("zero", 0, "int32")], f"{base}.differs")
    starts = node.constant("start", np.arange(count) == 0)
    new = node.add("logical_or", [differs, starts], f"{base}.new")
    numbers = node.add("cast", [new], f"{base}.numbers", dtype="int64")
    total = node.add("cumulative", [numbers], f"{base}.groups", axis=0)
    return new, node.add("sub", [total, node.constant("one", 1, "int64")], f"{base}.group")


def _members(node: OnnxNode, group: Value, first: Value) -> Value:
    """Return how many rows each group has; there are as many groups as first rows."""
    base = node.outputs[0] or node.name
    ones = node.constant("ones", np.ones(group.shape[0], np.int64))
    zeros = node.constant("none", np.zeros(first.shape[0], np.int64))
    counts: Value = scattered(_plain(node, f"{base}.counts", reduction="add"), zeros, group, ones, 1)
    return counts if counts.is_constant else node.counted.declare(counts, node.counted.axes(first))


CONVERTERS = {"NonZero": _non_zero, "Unique": _unique}
