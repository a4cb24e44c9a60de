"""Integers to the real values they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.quant import affine


class Dequantize(OpDef):
    """x = float32(q − zero_point) · scale, with the QParams of the operand.

    The operand is int8 per tensor, or an int32 accumulator with one scale per channel.

    Source:
        ONNX DequantizeLinear.
    """

    name = "dequantize"
    integer = Quantization.ARITHMETIC

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in float32."""
        return (inputs[0].with_dtype("float32"),)

    def check(self, node: Node) -> None:
        """Check that the operand, and not the result, is quantized."""
        if node.inputs[0].qparams is None:
            raise ValueError(f"{node.inputs[0].name} needs QParams")
        if node.output.qparams is not None:
            raise ValueError(f"{node.output.name} is real and has no QParams")

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Dequantize."""
        self.check(node)
        assert node.inputs[0].qparams is not None
        return (affine.dequantize(inputs[0], node.inputs[0].qparams),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""
        qparams = node.inputs[0].qparams
        assert qparams is not None
        axis = qparams.axis
        if axis is None:
            context.map(node, lambda e, i: e.dequantize(0, *i))
            return
        if any(qparams.zero_point):
            raise LoweringError(f"node {node}: per-channel zero points have no code")
        scales = context.constant(np.asarray(qparams.scale, np.float32))
        axis %= len(node.output.shape)
        context.map(node, lambda e, i: e.cast(e.centred(0, *i), "float32") * e.at(scales, i[axis]))
