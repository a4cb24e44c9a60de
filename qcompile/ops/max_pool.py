"""Maximum over a sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.pooling import (
    PoolAttrs,
    pool_extents,
    pool_type,
    pool_windows,
    pooled,
    with_positions,
)
from qcompile.ops.spatial import from_nhwc, spatial_axes, to_nhwc

_UNROLLED_TAPS = 49
"""Windows of at most so many taps become one expression; larger ones a loop."""


def _from_onnx(node: OnnxNode) -> Value | tuple[Value, Value]:
    y = pooled(node, "max_pool", [node.value(0)])
    if len(node.outputs) == 1:
        return y
    view = replace(node, outputs=node.outputs[1:])
    return y, pooled(view, "pool_place", [node.value(0), y], by_column=bool(node.attr("storage_order", 0)))


class MaxPool(OpDef):
    """y[n,h,w,c] = max over taps of x[n, h·s+i·d−p, w·s+j·d−p, c]; padding never wins.

    On quantized tensors it selects elements, so the result shares the operand's QParams.

    Source:
        ONNX MaxPool.
    """

    name = "max_pool"
    Attrs = PoolAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"MaxPool": _from_onnx}

    def infer(self, attrs: PoolAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        return (pool_type(attrs, inputs),)

    def evaluate(self, attrs: PoolAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Take the maximum tap by tap."""
        x = to_nhwc(inputs[0], attrs.layout)
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        total: Array | None = None
        for seen in pool_windows(x, attrs, pool_extents(attrs, inputs[0].shape), lowest):
            total = seen.copy() if total is None else np.maximum(total, seen, out=total)
        assert total is not None
        return (from_nhwc(total, attrs.layout),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an unrolled maximum over small windows, a reduction loop over large ones."""
        attrs = node.attrs
        if attrs.kernel[0] * attrs.kernel[1] <= _UNROLLED_TAPS:
            context.map(node, lambda e, i: _unrolled(e, i, node))
        elif node.is_integer:
            context.reduce(
                node,
                attrs.kernel,
                lambda e, i, r: e.centred(0, *_inside(e, i, r, node)),
                "max",
                (-(2**31), "int32"),
                lambda e, acc, i: e.clamp_store(acc),
            )
        else:
            context.reduce(
                node,
                attrs.kernel,
                lambda e, i, r: e.load(0, *_inside(e, i, r, node)),
                "max",
                (-np.inf, node.output.dtype),
                lambda e, acc, i: acc,
            )


def _unrolled(e: Any, i: Any, node: Node) -> Any:
    best = None
    for row in range(node.attrs.kernel[0]):
        for column in range(node.attrs.kernel[1]):
            seen = e.load(0, *_inside(e, i, (row, column), node))
            best = seen if best is None else e.max(best, seen)
    return best


def _inside(e: Any, i: Any, r: Sequence[Any], node: Node) -> tuple[Any, ...]:
    """Return the input index of a tap; a tap in the padding is replaced by the nearest one that is not.

    The replacement is another tap of the same window, and a maximum does not mind seeing an element twice, so
    no fill value is needed.
    """
    attrs = node.attrs
    positions = []
    for k, axis in enumerate(spatial_axes(attrs.layout)):
        stride, pad, dilation = attrs.strides[k], attrs.pads[k], attrs.dilations[k]
        size, out = node.inputs[0].shape[axis], node.output.shape[axis]
        start = i[axis] * stride
        tap = r[k]
        if pad:
            # First tap that is not above (left of) the input: ceil((pad − start) / dilation).
            first = (e.max(pad - start, 0) + (dilation - 1)) // dilation
            tap = e.max(tap, first)
        if (out - 1) * stride - pad + (attrs.kernel[k] - 1) * dilation >= size:
            last = ((size - 1 + pad) - start) // dilation
            tap = e.min(tap, last)
        positions.append(start + tap * dilation - pad)
    return with_positions(attrs, i, positions)
