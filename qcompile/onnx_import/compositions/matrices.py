"""Operators on small square matrices."""

from __future__ import annotations

import itertools
import math

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped

MOST_ROWS = 5
"""Rows of a matrix whose determinant is computed: each of its minors becomes operations of its own."""


def _determinant(node: OnnxNode) -> Value:
    """Import Det: minors of the last row, of the last two, and so on, each expanded along its first row."""
    x, base = node.value(0), node.outputs[0]
    *batch, rows, columns = (1, 1, *x.shape)[-max(2, len(x.shape)) :]
    if len(x.shape) < 2 or rows != columns or not rows:
        node.fail(f"{x.type} is no square matrix")
    if rows > MOST_ROWS:
        node.fail(f"the determinant of a matrix of {rows} rows; at most {MOST_ROWS} are supported")
    flat = reshaped(node, x, (math.prod(batch), rows * columns), f"{base}.flat")

    def element(row: int, column: int) -> Value:
        place = node.constant(f"place{row}{column}", row * columns + column, "int64")
        return node.add("gather", [flat, place], f"{base}.{row}{column}", axis=1)

    minors: dict[tuple[int, ...], Value] = {(column,): element(rows - 1, column) for column in range(columns)}
    for row in reversed(range(rows - 1)):
        own = [element(row, column) for column in range(columns)]
        minors = {
            chosen: _expanded(node, own, chosen, minors)
            for chosen in itertools.combinations(range(columns), rows - row)
        }
    (result,) = minors.values()
    return reshaped(node, result, batch)


def _expanded(
    node: OnnxNode, row: list[Value], columns: tuple[int, ...], minors: dict[tuple[int, ...], Value]
) -> Value:
    """Return a minor: Σ (−1)^k · row[k] · (the minor below it without column k)."""
    total: Value | None = None
    for place, column in enumerate(columns):
        rest = tuple(c for c in columns if c != column)
        term = node.add("mul", [row[column], minors[rest]], f"{node.outputs[0]}.term")
        if total is None:
            total = term
        else:
            total = node.add("sub" if place % 2 else "add", [total, term], f"{node.outputs[0]}.minor")
    assert total is not None
    return total


CONVERTERS = {"Det": _determinant}
