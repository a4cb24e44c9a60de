"""Tensors joined along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization, qparams_of
from qcompile.ir.types import TensorType
from qcompile.ops.layout import axis_index, replace_axis
from qcompile.ops.onnx_node import OnnxNode
from qcompile.quant import requantize as rq
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class ConcatAttrs:
    """Attributes of concat.

    Args:
        axis: the axis along which the parts follow each other, counted from the front.
    """

    axis: int


def _from_onnx(node: OnnxNode) -> Value:
    parts = [node.value(k) for k in range(len(node.inputs))]
    axis = axis_index(int(node.attr("axis")), len(parts[0].shape))
    # Empty parts come from shape arithmetic and from states of length 0.
    filled = [p for p in parts if p.type.size] or parts[:1]
    return filled[0] if len(filled) == 1 else node.add("concat", filled, axis=axis)


def is_copy(part: QParams, result: QParams) -> bool:
    """Return whether the integers of a part are those of the result.

    Args:
        part: parameters of one operand.
        result: parameters of the result.
    """
    return part.same_grid(result) and result.qmin <= part.qmin and part.qmax <= result.qmax


class Concat(OpDef):
    """y = the operands one after the other along an axis.

    Integer form: each part is requantized, acc = q − zp with m = float32(s_part / s_y), or copied where the grids
    are equal.

    Source:
        ONNX Concat.
    """

    name = "concat"
    Attrs = ConcatAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"Concat": _from_onnx}

    def infer(self, attrs: ConcatAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        first, axis = inputs[0], attrs.axis
        if not 0 <= axis < first.rank:
            raise ValueError(f"axis {axis} is out of range for {first}")
        for other in inputs[1:]:
            if (
                other.dtype != first.dtype
                or other.rank != first.rank
                or replace_axis(other.shape, axis, first.shape[axis]) != first.shape
            ):
                raise ValueError(f"{first} and {other} cannot be joined along axis {axis}")
        return (first.with_shape(replace_axis(first.shape, axis, sum(t.shape[axis] for t in inputs))),)

    def evaluate(self, attrs: ConcatAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Join the operands."""
        return (np.concatenate(inputs, attrs.axis),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Bring each part to the result's scale and join them."""
        params, (y,) = qparams_of(node)
        parts = [
            q
            if is_copy(p, y)
            else rq.requantize(
                q.astype(np.int32) - np.int32(p.scalar_zero_point),
                rq.multiplier(p.scalar_scale, y.scalar_scale),
                y,
            )
            for q, p in zip(inputs, params, strict=True)
        ]
        return (np.concatenate(parts, node.attrs.axis),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse what is not a real-valued tensor, and per-channel operands."""
        if any(v.qparams is not None and v.qparams.per_channel for v in node.inputs):
            return "an operand is quantized per channel"
        return None

    def lower(self, node: Node, context: Any) -> None:
        """Emit one copy or requantization per part."""
        context.concat(node)
