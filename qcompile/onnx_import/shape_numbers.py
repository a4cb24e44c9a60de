"""Arithmetic on shapes of which the data decide a part: each number is an integer, or an extent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.opdef import OpDef
from qcompile.ir.symbol import Extent

Number = Any
"""An int, or an Extent; None where neither is known."""

Numbers = npt.NDArray[np.object_]

_MOVES = ("concat", "gather", "slice", "reshape", "transpose", "expand", "split")
_SAME = ("cast", "identity")


def numbers_of(op: OpDef, attrs: Any, inputs: Sequence[Numbers | None]) -> Numbers | None:
    """Return what an operation makes of such numbers, None where that is not known.

    Args:
        op: operation.
        attrs: its attributes.
        inputs: the numbers in each operand; None for one that is no shape arithmetic.
    """
    known = [numbers for numbers in inputs if numbers is not None]
    if len(known) < len(inputs) or not known:
        return None
    if op.name in _SAME:
        return known[0] if getattr(attrs, "dtype", "int64") in ("int32", "int64") else None
    if op.name in _MOVES:
        if op.name == "gather":
            known[1] = known[1].astype(np.int64)
        made = op.evaluate(attrs, known)
        # NumPy takes a single object out of its array.
        whole = isinstance(made[0], np.ndarray)
        return None if len(made) > 1 else made[0] if whole else _whole([made[0]], ())
    if op.name in (*_COMBINE, "equal", "where"):
        same = np.broadcast_arrays(*known)
        rows = zip(*(array.reshape(-1) for array in same), strict=True)
        return _whole([_element(op.name, *row) for row in rows], same[0].shape)
    if op.name in _REDUCE:
        (x,) = known
        axes = op.reduced(attrs, x.ndim)[0]  # type: ignore[attr-defined]
        if tuple(sorted(axes)) == tuple(range(x.ndim)):
            total = functools.reduce(functools.partial(combined, _REDUCE[op.name]), x.reshape(-1))
            return _whole([total], (1,) * x.ndim if attrs.keepdims else ())
    return None


_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "div": np.floor_divide,
}
_REDUCE = {"reduce_min": "minimum", "reduce_max": "maximum", "reduce_prod": "mul", "reduce_sum": "add"}


def _element(op: str, *numbers: Number) -> Number:
    """Return what an elementwise operation makes of numbers, None where that is not known."""
    if op == "where":
        condition, yes, no = numbers
        return yes if condition else no
    return _equal(*numbers) if op == "equal" else combined(op, *numbers)


def _equal(x: Number, y: Number) -> Number:
    """Return whether two numbers are the same whatever the data are; None where these decide it."""
    if x == y:
        return 1
    difference = combined("sub", x, y)
    return None if difference is None or (isinstance(difference, Extent) and 0 in difference.table) else 0


def combined(op: str, x: Number, y: Number) -> Number:
    """Return what an operation makes of two numbers; None where they follow from two counts.

    Args:
        op: "add", "sub", "mul", "div", "minimum" or "maximum".
        x: an int or an extent; None where it is not known.
        y: the same.
    """
    if x is None or y is None or (op == "div" and not (isinstance(y, int) and y > 0)):
        return None
    opened = [n for n in (x, y) if isinstance(n, Extent)]
    if len({n.symbol for n in opened}) > 1:
        return None
    with np.errstate(all="ignore"):
        made = _COMBINE[op](*(np.array(n.table, np.int64) if isinstance(n, Extent) else np.int64(n) for n in (x, y)))
    return from_table(opened[0], made) if opened else int(made)


def from_table(like: Extent, table: npt.NDArray[np.int64]) -> Number:
    """Return an extent of the same count with another table, an int where all its entries are the same."""
    if (table == table[0]).all():
        return int(table[0])
    return replace(like, table=tuple(table.tolist()))


def _whole(numbers: Sequence[Number], shape: tuple[int, ...]) -> Numbers | None:
    """Return numbers as an array, None where one is not known."""
    if any(number is None for number in numbers):
        return None
    array = np.empty(len(numbers), object)
    array[:] = numbers
    return array.reshape(shape)
