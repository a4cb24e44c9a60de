"""Average over a sliding window whose last windows reach past the end of an open axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.avg_pool import AvgPoolAttrs, lower_average, window_sums
from qcompile.ops.pooling import pool_extents, pool_type, tap_counts
from qcompile.ops.spatial import from_nhwc, spatial_axes
from qcompile.quant import requantize as rq


@dataclass(frozen=True)
class OpenAvgPoolAttrs(AvgPoolAttrs):
    """Attributes of open_avg_pool: those of avg_pool, and one more.

    Args:
        entries: which number of operand 1 is the actual height, and width, of operand 0; None where that is fixed.
    """

    entries: tuple[int | None, int | None] = (None, None)


class OpenAvgPool(OpDef):
    """y[n,h,w,c] = Σ over taps of x[n, h·s+i·d−p, w·s+j·d−p, c] / count[h,w], counts by the actual extents.

    Operands: x, which is zero past the actual end, and the actual extents (int32).

    Integer form: that of avg_pool.
    """

    name = "open_avg_pool"
    Attrs = OpenAvgPoolAttrs
    activations = (0,)
    integer = Quantization.ARITHMETIC
    takes_int16 = True

    def infer(self, attrs: OpenAvgPoolAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, extents = inputs
        if extents.dtype != "int32" or any(not 0 <= e < extents.size for e in attrs.entries if e is not None):
            raise ValueError(f"entries {attrs.entries} of {extents}")
        return (pool_type(attrs, [x]),)

    def evaluate(self, attrs: OpenAvgPoolAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sum tap by tap, then divide by the counts."""
        total, counts = window_sums(attrs, inputs[0])[0], _counts(attrs, inputs)
        return (from_nhwc(total / counts.astype(total.dtype)[None, :, :, None], attrs.layout),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sum centred integers tap by tap, then requantize with one multiplier per count."""
        x, y = node.inputs[0].qparams, node.output.qparams
        assert x is not None
        assert y is not None
        total = window_sums(node.attrs, inputs[0].astype(np.int32) - np.int32(x.scalar_zero_point))[0]
        m = rq.multiplier(x.scalar_scale, y.scalar_scale * _counts(node.attrs, inputs))[None, :, :, None]
        return (from_nhwc(rq.requantize(total, m, y), node.attrs.layout),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a reduction over the window; the factor is found by the count of taps."""
        attrs, axes = node.attrs, spatial_axes(node.attrs.layout)
        counts = np.maximum(np.arange(attrs.kernel[0] * attrs.kernel[1] + 1), 1)
        if node.is_integer:
            x, y = node.inputs[0].qparams, node.output.qparams
            assert x is not None
            assert y is not None
            factors = rq.multiplier(x.scalar_scale, y.scalar_scale * counts)
        else:
            factors = np.float32(1.0) / counts.astype(np.float32)
        table = context.constant(np.asarray(factors, np.float32))

        def factor(e: Any, i: Any) -> Any:
            rows, columns = (_count(e, node, k, i[axes[k]]) for k in (0, 1))
            return e.at(table, rows * columns)

        lower_average(node, context, factor)


def _counts(attrs: OpenAvgPoolAttrs, inputs: Sequence[Array]) -> Array:
    """Return how many taps of each window count, at least 1: int64 [H_out, W_out]."""
    x, extents = inputs[0], inputs[1].reshape(-1)
    out, found = pool_extents(attrs, x.shape), []
    for k, axis in enumerate(spatial_axes(attrs.layout)):
        entry = attrs.entries[k]
        size = x.shape[axis] if entry is None else int(extents[entry])
        before, after = (attrs.pads[k], attrs.pads[k + 2]) if attrs.count_include_pad else (0, 0)
        found.append(tap_counts(attrs, k, out[k], -before, size + after))
    return np.asarray(np.maximum(found[0][:, None] * found[1][None, :], 1))


def _count(e: Any, node: Node, k: int, at: Any) -> Any:
    """Return how many taps of a window count along one axis, as an expression."""
    attrs = node.attrs
    before, after = (attrs.pads[k], attrs.pads[k + 2]) if attrs.count_include_pad else (0, 0)
    entry, axis = attrs.entries[k], spatial_axes(attrs.layout)[k]
    # All numbers are counted from the first element of the padding, so that none is negative.
    end: Any = node.inputs[0].shape[axis] if entry is None else e.cast(e.load(1, entry), "int64")
    start, dilation = at * attrs.strides[k], attrs.dilations[k]
    last = e.max(end + after + attrs.pads[k] - start, 0)
    first = e.max(attrs.pads[k] - before - start, 0)
    taps = e.min((last + (dilation - 1)) // dilation, attrs.kernel[k])
    return e.max(taps - (first + (dilation - 1)) // dilation, 0)
