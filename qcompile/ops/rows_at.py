"""The rows of a table that belong to the places of this run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cache_advance import LENGTH


@dataclass(frozen=True)
class RowsAtAttrs:
    """Attributes of rows_at.

    Args:
        axis: along which a place is looked up.
        shape: of the result.
        new: axis of the third operand that has as many places.
        long: axes of the table along all places so far; open as the symbol is.
        symbol: the open extent that their number is.
    """

    axis: int = 0
    shape: tuple[int, ...] = ()
    new: int = 0
    long: tuple[int, ...] = ()
    symbol: str = "length"


class RowsAt(OpDef):
    """y[..., s, ...] = table[..., length + s, ...].

    Operands: the table, with as many rows behind the last place as a run may have new ones; length int64 [1]; a tensor
    that has as many new places on the axis `new`. Places beyond the table are of no meaning, 0 here.
    """

    name = "rows_at"
    Attrs = RowsAtAttrs
    activations = ()
    selects = True

    def infer(self, attrs: RowsAtAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the rows."""
        table, length, like = inputs
        axes = range(table.rank)
        fits = len(attrs.shape) == table.rank and attrs.axis in axes and 0 <= attrs.new < like.rank
        if not fits or length != LENGTH or not set(attrs.long) <= set(axes) - {attrs.axis}:
            raise ValueError(f"rows of {table} at {length} along axis {attrs.axis}")
        if any(attrs.shape[a] != table.shape[a] for a in axes if a != attrs.axis and a not in attrs.long):
            raise ValueError(f"{attrs.shape} are no rows of {table}")
        if attrs.shape[attrs.axis] != like.shape[attrs.new]:
            raise ValueError(f"{attrs.shape[attrs.axis]} rows for {like}")
        return (table.with_shape(attrs.shape),)

    def evaluate(self, attrs: RowsAtAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Take the rows."""
        table, length, _ = inputs
        where: list[slice] = [slice(0, size) for size in attrs.shape]
        start = int(length[0])
        where[attrs.axis] = slice(start, start + attrs.shape[attrs.axis])
        found = table[tuple(where)]
        result = np.zeros(attrs.shape, table.dtype)
        result[tuple(map(slice, found.shape))] = found
        return (result,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy."""
        axis = node.attrs.axis

        def element(e: Any, i: Any) -> Any:
            return e.load(0, *i[:axis], i[axis] + e.load(1, 0), *i[axis + 1 :])

        context.map(node, element)
