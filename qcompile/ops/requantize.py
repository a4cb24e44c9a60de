"""Integers of one scale to integers of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef, Quantization, qparams_of
from qcompile.ir.types import TensorType
from qcompile.quant import requantize as rq


class Requantize(OpDef):
    """q_y = int(rne(clamp(float32(q_x − zp_x) · m))) + zp_y with m = s_x / s_y.

    The operand is an int32 accumulator (one scale, or one per index of its QParams' axis) or int8; the result
    is int8, or the wide int32 tensor of a residual add.

    Source:
        `qcompile.quant.requantize.requantize`.
    """

    name = "requantize"
    integer = Quantization.ARITHMETIC
    takes_int16 = True

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in int8; the QParams of the result may ask for another integer."""
        return (inputs[0].with_dtype("int8"),)

    def check(self, node: Node) -> None:
        """Check that both sides are quantized and the result is per tensor."""
        (x,), (y,) = qparams_of(node)
        if y.per_channel:
            raise ValueError(f"{node.output.name} needs per-tensor QParams")
        if x.per_channel and any(x.zero_point):
            raise ValueError(f"{node.inputs[0].name} has per-channel zero points")

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Requantize."""
        self.check(node)
        (x,), (y,) = qparams_of(node)
        m = rq.multiplier(x.scale, y.scalar_scale)
        if x.axis is None:
            return (rq.requantize(inputs[0].astype(np.int32) - np.int32(x.scalar_zero_point), m[0], y),)
        shape = [1] * inputs[0].ndim
        shape[x.axis] = m.size
        return (rq.requantize(inputs[0], m.reshape(shape), y),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop."""
        (x,), (y,) = qparams_of(node)
        m = rq.multiplier(x.scale, y.scalar_scale)
        if x.axis is None:
            context.map(node, lambda e, i: e.requantize(e.centred(0, *i), float(m[0])))
            return
        axis = x.axis % len(node.output.shape)
        factors = context.constant(m)
        context.map(node, lambda e, i: e.requantize(e.centred(0, *i), e.at(factors, i[axis])))
