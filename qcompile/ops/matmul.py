"""Matrix product of two activations, batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef, Quantization, qparams_of
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import ACCUMULATOR_LIMIT, integer_matmul
from qcompile.ops.elementwise import broadcast_shape, per_tensor_obstacle
from qcompile.ops.mul import product_multiplier
from qcompile.quant import requantize as rq

_REACH = 255 * 255
"""Largest product of two centred int8 numbers."""


class Matmul(OpDef):
    """y[..., m, n] = Σ a[..., m, k] · b[..., k, n]; the leading axes broadcast, 1-D operands are vectors.

    Integer form: acc = Σ (q_a − z_a)·(q_b − z_b) in int32, requantized with m = s_a·s_b / s_y. The converter
    is dense's: only products without a constant matrix on the right come here.

    Source:
        ONNX MatMul; QLinearMatMul with a float32 multiplier.
    """

    name = "matmul"
    integer = Quantization.ARITHMETIC

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        if len(inputs) != 2:
            raise ValueError(f"matmul takes two operands, got {len(inputs)}")
        a, b = inputs
        if not a.rank or not b.rank or a.dtype != b.dtype:
            raise ValueError(f"matmul of {a} and {b}")
        rows = a.shape[-2:-1]
        columns = b.shape[-1:] if b.rank > 1 else ()
        if a.shape[-1] != b.shape[-2 if b.rank > 1 else -1]:
            raise ValueError(f"matmul of {a} and {b}: the inner extents differ")
        return (a.with_shape((*broadcast_shape([a.shape[:-2], b.shape[:-2]]), *rows, *columns)),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of the operands."""
        return (np.asarray(np.matmul(inputs[0], inputs[1])),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply the centred integers exactly and requantize."""
        (a, b), (y,) = qparams_of(node)
        left = inputs[0].astype(np.int16) - np.int16(a.scalar_zero_point)
        right = inputs[1].astype(np.int16) - np.int16(b.scalar_zero_point)
        acc = integer_matmul(left, right, _REACH)
        return (rq.requantize(acc, product_multiplier(a, b, y), y),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse sums that could leave int32."""
        terms = node.inputs[0].shape[-1]
        if terms * _REACH > ACCUMULATOR_LIMIT:
            return f"a sum of {terms} products could leave int32"
        return per_tensor_obstacle(node)

    def check(self, node: Node) -> None:
        """Check that the integer sum cannot overflow."""
        obstacle = self.integer_obstacle(node) if node.is_integer else None
        if obstacle:
            raise ValueError(obstacle)

    def macs(self, node: Node) -> int:
        """Return result elements times K."""
        return node.outputs[0].type.size * node.inputs[0].shape[-1]

    def lower(self, node: Node, context: Any) -> None:
        """Emit a matrix product kernel."""
        context.matmul(node)
