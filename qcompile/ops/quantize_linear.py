"""Integers of any type from real values, with scales and zero points that may be tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.elementwise import broadcast_shape


@dataclass(frozen=True)
class QuantizeLinearAttrs:
    """Attributes of quantize_linear.

    Args:
        dtype: element type of the result.
        qmin: smallest integer of the result, LSB.
        qmax: largest integer of the result, LSB.
    """

    dtype: str = "uint8"
    qmin: int = 0
    qmax: int = 255


class QuantizeLinear(OpDef):
    """q = clamp(rne(x / scale) + zero_point, qmin, qmax).

    Operands: x (float32), scale (float32) and zero_point (of the result's type), both broadcast to x. It is what a
    quantized model computes at run time; the integers of a compiled graph are made by `quantize`.

    Source:
        ONNX QuantizeLinear.
    """

    name = "quantize_linear"
    Attrs = QuantizeLinearAttrs

    def infer(self, attrs: QuantizeLinearAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the shape of x in the type asked for."""
        x, scale, zero_point = inputs
        if x.dtype != "float32" or scale.dtype != "float32" or zero_point.dtype != attrs.dtype:
            raise ValueError(f"a quantization of {x} by {scale} and {zero_point}")
        if broadcast_shape([x.shape, scale.shape, zero_point.shape]) != x.shape:
            raise ValueError(f"scale {scale} or zero point {zero_point} does not fit {x}")
        return (x.with_dtype(attrs.dtype),)

    def evaluate(self, attrs: QuantizeLinearAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Round and clamp; NaN becomes the smallest integer."""
        x, scale, zero_point = inputs
        offset = zero_point.astype(np.float32)
        with np.errstate(all="ignore"):
            steps = np.rint(x / scale)
        low, high = np.float32(attrs.qmin) - offset, np.float32(attrs.qmax) - offset
        y = np.fmin(np.fmax(steps, low), high).astype(np.int64) + zero_point.astype(np.int64)
        return (y.astype(attrs.dtype),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""
        attrs = node.attrs

        def element(e: Any, i: Any) -> Any:
            x, scale, zero_point = (e.load(k, *e.broadcast(k, i)) for k in range(3))
            offset = e.cast(zero_point, "float32")
            steps = e.round_clamp(x / scale, e.f32(attrs.qmin) - offset, e.f32(attrs.qmax) - offset)
            return e.cast(steps + e.cast(zero_point, "int32"), attrs.dtype)

        context.map(node, element)
