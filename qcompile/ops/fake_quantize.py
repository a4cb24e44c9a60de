"""Rounding to the numbers that a quantized tensor can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.opdef import Array, Quantization
from qcompile.ops.elementwise import Unary


@dataclass(frozen=True)
class FakeQuantizeAttrs:
    """Attributes of fake_quantize.

    Args:
        scale: real units per LSB, positive.
        zero_point: the integer that stands for 0.
        qmin: smallest integer, LSB.
        qmax: largest integer, LSB.
    """

    scale: float = 1.0
    zero_point: int = 0
    qmin: int = -128
    qmax: int = 127

    def __post_init__(self) -> None:
        if not (self.scale > 0 and np.isfinite(self.scale)):
            raise ValueError(f"scale {self.scale} is not positive and finite")
        if not self.qmin <= self.zero_point <= self.qmax:
            raise ValueError(f"zero_point {self.zero_point} is not within {self.qmin}..{self.qmax}")


class FakeQuantize(Unary):
    """y = scale · clamp(rne(x / scale), qmin − zero_point, qmax − zero_point).

    A QuantizeLinear and the DequantizeLinear behind it, as real numbers: what a quantized model says about a tensor.
    The pass `absorb-qdq` turns it into integers; where it cannot, the rounding stays.

    Source:
        ONNX QuantizeLinear and DequantizeLinear.
    """

    name = "fake_quantize"
    Attrs = FakeQuantizeAttrs
    integer = Quantization.FLOAT_ONLY

    def function(self, attrs: FakeQuantizeAttrs, x: Array) -> Array:
        """Return the nearest number on the grid; NaN becomes the smallest one."""
        kind = x.dtype.type
        low, high = kind(attrs.qmin - attrs.zero_point), kind(attrs.qmax - attrs.zero_point)
        steps = np.fmin(np.fmax(np.rint(x / kind(attrs.scale)), low), high)
        return np.asarray(steps * kind(attrs.scale))

    def expression(self, e: Any, attrs: FakeQuantizeAttrs, x: Any) -> Any:
        """Return the nearest number on the grid."""
        low, high = e.f32(attrs.qmin - attrs.zero_point), e.f32(attrs.qmax - attrs.zero_point)
        return e.cast(e.round_clamp(x / e.f32(attrs.scale), low, high), "float32") * e.f32(attrs.scale)
