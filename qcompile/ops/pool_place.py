"""Where the maximum of a sliding window stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.pooling import PoolAttrs, pool_extents, pool_type, pool_windows, tap_positions, with_positions
from qcompile.ops.spatial import from_nhwc, spatial_axes, to_nhwc


@dataclass(frozen=True)
class PoolPlaceAttrs(PoolAttrs):
    """Attributes of pool_place: those of the pooling, and how places are counted.

    Args:
        by_column: whether places run down the columns of an image first.
    """

    by_column: bool = False


class PoolPlace(OpDef):
    """y[n,c,h,w] = min {((n·C + c)·H + i)·W + j over the taps of the window where x[n,c,i,j] is the maximum}.

    Operands: x, and max_pool(x) with the same window. Places are counted with channels first in either layout. Where
    no tap equals the maximum (it is NaN), the result is the number of elements of x, which is no place.

    Source:
        ONNX MaxPool, its second output.
    """

    name = "pool_place"
    Attrs = PoolPlaceAttrs

    def infer(self, attrs: PoolPlaceAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the maxima, in int64."""
        x, maxima = inputs
        if maxima != pool_type(attrs, [x]):
            raise ValueError(f"maxima {maxima} of {x}")
        return (maxima.with_dtype("int64"),)

    def evaluate(self, attrs: PoolPlaceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Look at the taps one after another."""
        x, maxima = inputs
        n, h, w, c = to_nhwc(x, attrs.layout).shape
        places = np.arange(x.size, dtype=np.int64).reshape(n, c, h, w).transpose(0, 2, 3, 1)
        out, wanted = pool_extents(attrs, x.shape), to_nhwc(maxima, attrs.layout)
        found = np.full(wanted.shape, x.size, np.int64)
        for values, numbers in zip(
            pool_windows(to_nhwc(x, attrs.layout), attrs, out, 0),
            pool_windows(places, attrs, out, x.size),
            strict=True,
        ):
            found = np.where(values == wanted, np.minimum(found, numbers), found)
        return (np.ascontiguousarray(from_nhwc(_counted(attrs, found, (h, w)), attrs.layout)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a minimum over the taps; those elsewhere, or in the padding, are beyond all places."""
        attrs, shape = node.attrs, node.inputs[0].shape
        height, width = (shape[a] for a in spatial_axes(attrs.layout))
        channel = 1 if attrs.layout == "NCHW" else 3
        beyond = math.prod(shape)

        def body(e: Any, i: Any, r: Any) -> Any:
            row, column = tap_positions(attrs, i, r)
            inside = e.and_(e.and_(row >= 0, row < height), e.and_(column >= 0, column < width))
            safe = (e.min(e.max(row, 0), height - 1), e.min(e.max(column, 0), width - 1))
            same = e.equal(e.load(0, *with_positions(attrs, i, safe)), e.load(1, *i))
            place = ((i[0] * shape[channel] + i[channel]) * height + row) * width + column
            return e.select(e.and_(inside, same), place, beyond)

        def finish(e: Any, acc: Any, i: Any) -> Any:
            return _counted(attrs, acc, (height, width))

        context.reduce(node, attrs.kernel, body, "min", (beyond, "int64"), finish)


def _counted(attrs: PoolPlaceAttrs, place: Any, image: tuple[int, int]) -> Any:
    """Return places counted row by row as the attributes want them; arrays and expressions alike."""
    if not attrs.by_column:
        return place
    height, width = image
    rest = place % (height * width)
    return place - rest + rest % width * height + rest // width
