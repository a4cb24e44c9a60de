"""Scale and zero point of a tensor, or of each row, from its extremes at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType

LEAST_RANGE = 2.0**-100
"""Ranges below are taken as this, so that 1 / scale is finite."""


class DynamicScale(OpDef):
    """scale = (hi − lo) / 255 and zero_point = rne(clamp(−lo / scale, 0, 255)) − 128, with lo ≤ 0 ≤ hi.

    Operands: the smallest and the largest value, float32; 0 is taken in. Results: scale (float32; 1 where all values
    are 0) and zero_point (int32, of int8). Every operation is rounded once, so that all targets give the same bits.

    Source:
        ONNX DynamicQuantizeLinear, for int8 in place of uint8.
    """

    name = "dynamic_scale"

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return two tensors of the operands' shape."""
        lo, hi = inputs
        if lo != hi or lo.dtype != "float32":
            raise ValueError(f"a scale from {lo} and {hi}")
        return (lo, lo.with_dtype("int32"))

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute both."""
        zero = np.float32(0)
        lo, hi = np.minimum(inputs[0], zero), np.maximum(inputs[1], zero)
        extent = hi - lo
        scale = np.maximum(extent, np.float32(LEAST_RANGE)) / np.float32(255)
        scale = np.where(extent == zero, np.float32(1), scale).astype(np.float32)
        steps = np.fmin(np.fmax((zero - lo) / scale, zero), np.float32(255))
        return scale, np.asarray(np.rint(steps).astype(np.int32) - np.int32(128))

    def lower(self, node: Node, context: Any) -> None:
        """Emit one elementwise loop per result."""

        def scale(e: Any, i: Any) -> Any:
            zero = e.f32(0.0)
            extent = e.max(e.load(1, *i), zero) - e.min(e.load(0, *i), zero)
            return e.select(e.equal(extent, zero), e.f32(1.0), e.max(extent, e.f32(LEAST_RANGE)) / e.f32(255.0))

        def zero_point(e: Any, i: Any) -> Any:
            steps = (e.f32(0.0) - e.min(e.load(0, *i), e.f32(0.0))) / scale(e, i)
            return e.round_clamp(steps, e.f32(0.0), e.f32(255.0)) - e.i32(128)

        context.map(node, scale, 0)
        context.map(node, zero_point, 1)
