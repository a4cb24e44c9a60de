"""Where the elements of a dense tensor lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qcompile.errors import InternalError
from qcompile.kernels import expression as ex
from qcompile.kernels.expression import Expr


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def as_index(value: Any) -> Expr:
    """Return an index as an expression of int64."""
    return ex.cast(value, "int64") if isinstance(value, Expr) else ex.constant(int(value), "int64")


def flat_offset(shape: Sequence[int], position: Sequence[Any]) -> Expr:
    """Return the element offset of a position in a dense tensor.

    Args:
        shape: extents, elements.
        position: one index per axis.
    """
    if len(shape) != len(position):
        raise InternalError(f"{len(position)} indices into a tensor of shape {tuple(shape)}")
    total = ex.constant(0, "int64")
    stride = 1
    for extent, at in zip(reversed(shape), reversed(position), strict=True):
        total = total + as_index(at) * stride
        stride *= extent
    return total
