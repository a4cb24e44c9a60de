"""2-D convolution of integers with constant int8 weights, whose zero point is known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.conv2d import Conv2d, Conv2dAttrs
from qcompile.ops.convolution import integer_convolve
from qcompile.ops.dense_integer import check_integer_weight


class Conv2dInteger(OpDef):
    """y[n,h,w,o] = Σ (q[n, h·s+i·d−p, w·s+j·d−p, c] − zero_point) · weight[o,i,j,c], in int32; padding adds nothing.

    Operands: q (int8 or uint8, NHWC), weight OHWI (int8, constant, within ±127), zero_point (int32; one, or one for
    each image: [N, 1, 1, 1]).

    Source:
        ONNX ConvInteger with constant weights.
    """

    name = "conv2d_integer"
    Attrs = Conv2dAttrs
    rounds = True

    def infer(self, attrs: Conv2dAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the sums' type."""
        q, weight, zero_point = inputs
        if q.dtype not in ("int8", "uint8") or weight.dtype != "int8" or zero_point.dtype != "int32":
            raise ValueError(f"integer convolution of {q}, {weight} and zero point {zero_point}")
        one = zero_point.size == 1 or zero_point.shape == (q.shape[0], 1, 1, 1)
        if not one or attrs.layout != "NHWC" or attrs.residual or attrs.activation != "none":
            raise ValueError(f"zero point {zero_point} or layout {attrs.layout}: one for each image, and NHWC")
        real = [q.with_dtype("float32"), weight.with_dtype("float32"), TensorType("float32", weight.shape[:1])]
        (result,) = Conv2d().infer(attrs, real)
        return (result.with_dtype("int32"),)

    def evaluate(self, attrs: Conv2dAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Convolve exactly."""
        centred = inputs[0].astype(np.int32) - inputs[2]
        return (integer_convolve(centred.astype(np.float32), inputs[1], attrs),)

    def check(self, node: Node) -> None:
        """Check that the weights are constant and symmetric and the sums fit int32."""
        check_integer_weight(node, int(np.prod(node.inputs[1].shape[1:])))

    def macs(self, node: Node) -> int:
        """Return output elements times taps times channels per group."""
        return node.output.type.size * int(np.prod(node.inputs[1].shape[1:]))

    def lower(self, node: Node, context: Any) -> None:
        """Emit the kernel of int8 layers and a correction for the zero point."""
        context.conv2d_integer(node)
