"""Sigmoid made of straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary, unary_converter


@dataclass(frozen=True)
class HardSigmoidAttrs:
    """Attributes of hard_sigmoid.

    Args:
        alpha: slope.
        beta: value at 0.
    """

    alpha: float = 0.2
    beta: float = 0.5


class HardSigmoid(Unary):
    """y = max(0, min(1, alpha · x + beta)).

    Source:
        ONNX HardSigmoid.
    """

    name = "hard_sigmoid"
    Attrs = HardSigmoidAttrs
    onnx: ClassVar[dict[str, Any]] = {
        "HardSigmoid": unary_converter("hard_sigmoid", alpha=("alpha", 0.2), beta=("beta", 0.5))
    }

    def function(self, attrs: HardSigmoidAttrs, x: Array) -> Array:
        """Return the line, between 0 and 1."""
        one = x.dtype.type(1)
        line = x.dtype.type(attrs.alpha) * x + x.dtype.type(attrs.beta)
        return np.asarray(np.maximum(np.minimum(line, one), one - one))

    def expression(self, e: Any, attrs: HardSigmoidAttrs, x: Any) -> Any:
        """Return the line, between 0 and 1."""
        return e.max(e.min(x * e.f32(attrs.alpha) + e.f32(attrs.beta), e.f32(1.0)), e.f32(0.0))

    def fixed_range(self, attrs: HardSigmoidAttrs) -> tuple[float, float] | None:
        """Return the function's own bounds."""
        return (0.0, 1.0)
