"""Multiplication with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, Quantization, qparams_of
from qcompile.ops.elementwise import Binary, binary_converter, has_int16, per_tensor_obstacle
from qcompile.quant import int16
from qcompile.quant import requantize as rq
from qcompile.quant.qparams import QParams


class Mul(Binary):
    """y = a · b.

    Integer form: acc = (q_a − z_a)·(q_b − z_b), requantized with m = s_a·s_b / s_y. With 16-bit operands acc is the
    float32 next to the product, which int32 might not hold.

    Source:
        ONNX Mul.
    """

    name = "mul"
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"Mul": binary_converter("mul")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a · b."""
        return a * b

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a · b."""
        return a * b

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply the centred integers and requantize."""
        (a, b), (y,) = qparams_of(node)
        left = inputs[0].astype(np.int32) - np.int32(a.scalar_zero_point)
        right = inputs[1].astype(np.int32) - np.int32(b.scalar_zero_point)
        m = product_multiplier(a, b, y)
        if has_int16(a, b):
            return (int16.requantize_real(left.astype(np.float32) * right.astype(np.float32), m, y),)
        return (rq.requantize(left * right, m, y),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse per-channel operands."""
        return per_tensor_obstacle(node)

    def lower(self, node: Node, context: Any) -> None:
        """Emit the integer product, or the real one."""
        if not node.is_integer:
            super().lower(node, context)
            return
        (a, b), (y,) = qparams_of(node)
        m = float(product_multiplier(a, b, y))

        def emit(e: Any, i: Any) -> Any:
            left, right = (e.centred(k, *e.broadcast(k, i)) for k in (0, 1))
            if has_int16(a, b):
                return e.scaled(e.cast(left, "float32") * e.cast(right, "float32") * e.f32(m))
            return e.requantize(left * right, m)

        context.map(node, emit)


def product_multiplier(a: QParams, b: QParams, y: QParams) -> Any:
    """Return the requantization factor of a product.

    Formula:
        m = float32(s_a · s_b / s_y), in float64

    Args:
        a: parameters of the first factor, per tensor.
        b: parameters of the second factor, per tensor.
        y: parameters of the result, per tensor.
    """
    return rq.multiplier(np.float64(a.scalar_scale) * np.float64(b.scalar_scale), y.scalar_scale)
