"""Product of integers with constant int8 weights, whose zero point is known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.arithmetic import ACCUMULATOR_LIMIT, integer_matmul
from qcompile.ops.elementwise import broadcast_shape


class DenseInteger(OpDef):
    """y[..., n] = Σ (q[..., k] − zero_point[...]) · weight[n, k], in int32.

    Operands: q (int8 or uint8), weight [N, K] (int8, constant, within ±127), zero_point (int32; one, or one per row:
    it broadcasts to q with a last axis of 1).

    Source:
        ONNX MatMulInteger with constant B.
    """

    name = "dense_integer"
    rounds = True

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the sums' type."""
        q, weight, zero_point = inputs
        if q.dtype not in ("int8", "uint8") or weight.dtype != "int8" or zero_point.dtype != "int32":
            raise ValueError(f"integer product of {q}, {weight} and zero point {zero_point}")
        if q.rank < 1 or weight.rank != 2 or q.shape[-1] != weight.shape[1]:
            raise ValueError(f"weight {weight} does not fit {q}")
        rows = (*q.shape[:-1], 1)
        if zero_point.shape and broadcast_shape([zero_point.shape, rows]) != rows:
            raise ValueError(f"zero point {zero_point} does not fit {q}")
        return (TensorType("int32", (*q.shape[:-1], weight.shape[0])),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply exactly."""
        q, weight, zero_point = inputs
        return (integer_matmul(q.astype(np.int32) - zero_point, weight.T),)

    def check(self, node: Node) -> None:
        """Check that the weights are constant and symmetric and the sums fit int32."""
        check_integer_weight(node, node.inputs[1].shape[1])

    def macs(self, node: Node) -> int:
        """Return result elements times K."""
        return node.output.type.size * node.inputs[1].shape[1]

    def lower(self, node: Node, context: Any) -> None:
        """Emit the kernel of int8 layers and a correction for the zero point."""
        context.dense_integer(node)


def check_integer_weight(node: Node, terms: int) -> None:
    """Refuse weights that no kernel takes, and sums that could leave int32.

    Args:
        node: dense_integer or conv2d_integer.
        terms: products per sum.

    Raises:
        ValueError: the message says which.
    """
    weight = node.inputs[1].data
    if weight is None:
        raise ValueError(f"the weights {node.inputs[1].name} are computed at run time")
    if weight.size and int(weight.min()) < -127:
        raise ValueError("a weight is -128; integer weights lie within ±127")
    if terms * 255 * 127 > ACCUMULATOR_LIMIT:
        raise ValueError(f"a sum of {terms} products could leave int32")
