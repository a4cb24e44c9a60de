"""Real values to integers of a scale that is known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.elementwise import broadcast_shape


class DynamicQuantize(OpDef):
    """q = int(rne(min(max(x · (1 / scale), −128 − zp), 127 − zp))) + zp.

    Operands: x (float32), scale (float32) and zero_point (int32), both broadcast to x. The result is int8.

    Source:
        ONNX DynamicQuantizeLinear, with the division by the scale replaced by a multiplication as in `quantize`.
    """

    name = "dynamic_quantize"
    rounds = True

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the shape of x in int8."""
        x, scale, zero_point = inputs
        if (x.dtype, scale.dtype, zero_point.dtype) != ("float32", "float32", "int32"):
            raise ValueError(f"a quantization of {x} by {scale} and {zero_point}")
        if broadcast_shape([x.shape, scale.shape, zero_point.shape]) != x.shape:
            raise ValueError(f"scale {scale} or zero point {zero_point} does not fit {x}")
        return (x.with_dtype("int8"),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Round and clamp; NaN becomes the smallest integer."""
        x, scale, zero_point = inputs
        inverse = np.float32(1) / scale
        low, high = ((np.int32(end) - zero_point).astype(np.float32) for end in (-128, 127))
        steps = np.fmin(np.fmax(x * inverse, low), high)
        return (np.asarray(np.rint(steps).astype(np.int32) + zero_point).astype(np.int8),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""

        def element(e: Any, i: Any) -> Any:
            x, scale, zero_point = (e.load(k, *e.broadcast(k, i)) for k in range(3))
            ends = [e.cast(e.i32(end) - zero_point, "float32") for end in (-128, 127)]
            return e.cast(e.round_clamp(x * (e.f32(1.0) / scale), *ends) + zero_point, "int8")

        context.map(node, element)
