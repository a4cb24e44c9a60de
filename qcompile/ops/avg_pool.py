"""Average over a sliding window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization, qparams_of
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.pooling import (
    PoolAttrs,
    pool_extents,
    pool_type,
    pool_windows,
    pooled,
    tap_positions,
    window_counts,
    with_positions,
)
from qcompile.ops.spatial import from_nhwc, spatial_axes, to_nhwc
from qcompile.quant import requantize as rq


@dataclass(frozen=True)
class AvgPoolAttrs(PoolAttrs):
    """Attributes of avg_pool: those of PoolAttrs, and one more.

    Args:
        count_include_pad: whether padding counts as zeros in the average.
    """

    count_include_pad: bool = False


def _from_onnx(node: OnnxNode) -> Value:
    return pooled(node, "avg_pool", [node.value(0)], count_include_pad=bool(node.attr("count_include_pad", 0)))


class AvgPool(OpDef):
    """y[n,h,w,c] = Σ over taps of x[n, h·s+i·d−p, w·s+j·d−p, c] / count[h,w].

    Integer form: acc = Σ (q − zp) over the taps inside the input, requantized with m = s_x / (s_y · count).

    Source:
        ONNX AveragePool.
    """

    name = "avg_pool"
    Attrs = AvgPoolAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"AveragePool": _from_onnx}

    def infer(self, attrs: AvgPoolAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        return (pool_type(attrs, inputs),)

    def evaluate(self, attrs: AvgPoolAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sum tap by tap, then divide by the counts."""
        total, counts = window_sums(attrs, inputs[0])
        y = total / counts.astype(total.dtype)[None, :, :, None]
        return (from_nhwc(y, attrs.layout),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sum centred integers tap by tap, then requantize with one multiplier per count."""
        (x,), (y,) = qparams_of(node)
        centred = inputs[0].astype(np.int32) - np.int32(x.scalar_zero_point)
        total, counts = window_sums(node.attrs, centred)
        m = rq.multiplier(x.scalar_scale, y.scalar_scale * counts)[None, :, :, None]
        return (from_nhwc(rq.requantize(total, m, y), node.attrs.layout),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a reduction over the window."""
        attrs = node.attrs
        axes = spatial_axes(attrs.layout)
        out = (node.output.shape[axes[0]], node.output.shape[axes[1]])
        counts = window_counts(attrs, node.inputs[0].shape, out, with_pads=attrs.count_include_pad)
        if node.is_integer:
            (x,), (y,) = qparams_of(node)
            factors = rq.multiplier(x.scalar_scale, y.scalar_scale * counts)
        else:
            factors = np.float32(1.0) / counts.astype(np.float32)
        # Where all windows have the same count the factor is a literal.
        uniform = float(factors.flat[0]) if (counts == counts.flat[0]).all() else None
        table = None if uniform is not None else context.constant(np.asarray(factors, np.float32))

        def factor(e: Any, i: Any) -> Any:
            return e.f32(uniform) if table is None else e.at(table, i[axes[0]], i[axes[1]])

        lower_average(node, context, factor)


def lower_average(node: Node, context: Any, factor: Callable[[Any, Any], Any]) -> None:
    """Emit a reduction over the window.

    Args:
        node: the pooling.
        context: as for `OpDef.lower`.
        factor: gets the builder and the output's index; returns what the window's sum is multiplied by.
    """

    def finish(e: Any, acc: Any, i: Any) -> Any:
        return e.requantize(acc, factor(e, i)) if node.is_integer else acc * factor(e, i)

    init = (0, "int32") if node.is_integer else (0.0, node.output.dtype)
    context.reduce(node, node.attrs.kernel, lambda e, i, r: _tap(e, i, r, node), "sum", init, finish)


def window_sums(attrs: AvgPoolAttrs, x: Array) -> tuple[Array, Array]:
    """Return the sums of all windows, NHWC, and their counts [H_out, W_out].

    Args:
        attrs: the window.
        x: in the layout of the attributes; integers centred.
    """
    out = pool_extents(attrs, x.shape)
    total: Array | None = None
    for seen in pool_windows(to_nhwc(x, attrs.layout), attrs, out, 0):
        total = seen.copy() if total is None else np.add(total, seen, out=total)
    assert total is not None
    return total, window_counts(attrs, x.shape, out, with_pads=attrs.count_include_pad)


def _tap(e: Any, i: Any, r: Sequence[Any], node: Node) -> Any:
    """Return the element that a tap sees, centred if quantized; zero outside the input."""
    attrs = node.attrs
    positions = tap_positions(attrs, i, r)
    inside = None
    for k, axis in enumerate(spatial_axes(attrs.layout)):
        size, out = node.inputs[0].shape[axis], node.output.shape[axis]
        reach = (out - 1) * attrs.strides[k] - attrs.pads[k] + (attrs.kernel[k] - 1) * attrs.dilations[k]
        if attrs.pads[k]:
            inside = _both(e, inside, positions[k] >= 0)
        if reach >= size:
            inside = _both(e, inside, positions[k] < size)
    index = with_positions(attrs, i, positions)
    zero = node.inputs[0].qparams.scalar_zero_point if node.inputs[0].qparams else 0
    if inside is None:
        return e.centred(0, *index) if node.is_integer else e.load(0, *index)
    seen = e.load_or(0, index, inside, zero)
    return e.cast(seen, "int32") - zero if node.is_integer else seen


def _both(e: Any, first: Any, second: Any) -> Any:
    return second if first is None else e.and_(first, second)
