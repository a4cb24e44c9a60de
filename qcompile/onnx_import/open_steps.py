"""Loops over an open axis: unrolled up to its bound, of which a run makes the first steps only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.symbol import Extent
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.sliced import sliced


class OpenSteps:
    """The steps of a loop whose number is open.

    A step past the actual end computes anything: nothing reads what follows from it, and the code of such steps is
    not run (`qcompile.shapes.demand`).

    Args:
        node: the ONNX node.
        extent: number of steps.
        name: prefix of tensors.
    """

    def __init__(self, node: OnnxNode, extent: Extent, name: str) -> None:
        self.node, self.extent, self._name = node, extent, name
        self._number: Value | None = None

    def element(self, value: Value, axis: int, step: int, name: str, *, backward: bool = False) -> Value:
        """Return one slice along the open axis, without the axis.

        Args:
            value: has the open axis.
            axis: of it.
            step: counted from 0.
            name: of the result.
            backward: whether steps are counted from the actual end.
        """
        shape = (*value.shape[:axis], *value.shape[axis + 1 :])
        if backward:
            starts = tuple(max(0, n - 1 - step) for n in self.extent.table)
            part = self._cut(value, axis, starts, (1,) * len(starts), f"{name}.part")
        elif step >= self.extent.least:
            index = self.node.constant("step", [step], "int64")
            part = self.node.add("gather", [value, index], f"{name}.part", axis=axis)
        else:
            part = sliced(self.node, value, {axis: slice(step, step + 1)}, f"{name}.part")
        return reshaped(self.node, part, shape, name)

    def since(self, step: int, new: Value, start: Value, name: str) -> Value:
        """Return what a step that counts from the end goes on from: the step behind it, or the start at the end.

        Args:
            step: of the step behind.
            new: what that made.
            start: what the last step goes on from.
            name: of the result.
        """
        if step < self.extent.least:
            return new
        if self._number is None:
            self._number = reshaped(self.node, self.node.open.number(self.extent), (), f"{self._name}.count")
        counts = self.node.add("greater", [self._number, self.node.constant("step", step, "int64")], f"{name}.counts")
        return self.node.add("where", [counts, new, start], name)

    def last(self, made: Sequence[Value], name: str) -> Value:
        """Return what the last actual step made.

        Args:
            made: by every step, in order.
            name: of the result.
        """
        least, shape = self.extent.least, made[0].shape
        rows = [
            reshaped(self.node, value, (1, *shape), f"{name}.{step}")
            for step, value in enumerate(made)
            if step >= least - 1
        ]
        whole = self.node.add("concat", rows, f"{name}.all", axis=0)
        starts = tuple(n - least for n in self.extent.table)
        return reshaped(self.node, self._cut(whole, 0, starts, (1,) * len(starts), f"{name}.row"), shape, name)

    def trimmed(self, whole: Value, axis: int, name: str, *, backward: bool = False) -> Value:
        """Return what the actual steps made.

        Args:
            whole: what all made, along an axis.
            axis: of it.
            name: of the result.
            backward: whether the last one shall come first.
        """
        table = self.extent.table
        starts = tuple(n - 1 for n in table) if backward else (0,) * len(table)
        return self._cut(whole, axis, starts, table, name, -1 if backward else 1)

    def _cut(
        self, value: Value, axis: int, starts: Sequence[int], sizes: Sequence[int], name: str, step: int = 1
    ) -> Value:
        tables = {"starts": tuple(starts), "sizes": tuple(sizes)}
        return self.node.add("open_slice", [value], name, symbol=self.extent.symbol, axis=axis, step=step, **tables)


def steps_along(node: OnnxNode, value: Value, axis: int) -> Extent | None:
    """Return the open number of steps along an axis, None where it is fixed."""
    return None if node.open is None else node.open.extent(value, axis)


def steps_counted(node: OnnxNode, index: int) -> Extent | None:
    """Return the open number that a constant operand holds, None where it is fixed.

    Raises:
        UnsupportedOpError: it follows from several open extents, may be zero, or does not grow with the extent.
    """
    value = node.value(index)
    symbols = set() if node.open is None or value.data is None else node.open.symbols(value, 0)
    if not symbols:
        return None
    if len(symbols) > 1:
        node.fail(f"the number of its iterations follows from several open extents ({', '.join(sorted(symbols))})")
    symbol = symbols.pop()
    table = tuple(int(array.reshape(-1)[0]) for array in node.open.table(value, symbol))
    if table[0] < 1 or any(np.diff(table) < 0):
        node.fail(
            f"it runs {table[0]} to {table[-1]} times as '{symbol}' grows; one time is the least, and it must not fall",
            hint=f"give --input-shape a number, or a larger least value, in place of {symbol}",
        )
    return Extent(symbol, table)
