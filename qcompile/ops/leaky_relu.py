"""Rectifier that keeps a part of the negative values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary, unary_converter


@dataclass(frozen=True)
class LeakyReluAttrs:
    """Attributes of leaky_relu.

    Args:
        alpha: slope of the negative side, dimensionless.
    """

    alpha: float = 0.01


class LeakyRelu(Unary):
    """y = x for x ≥ 0, alpha · x below.

    Source:
        ONNX LeakyRelu.
    """

    name = "leaky_relu"
    Attrs = LeakyReluAttrs
    onnx: ClassVar[dict[str, Any]] = {"LeakyRelu": unary_converter("leaky_relu", alpha=("alpha", 0.01))}

    def function(self, attrs: LeakyReluAttrs, x: Array) -> Array:
        """Return x, or alpha · x where x is negative."""
        return np.where(x >= 0, x, x.dtype.type(attrs.alpha) * x)

    def expression(self, e: Any, attrs: LeakyReluAttrs, x: Any) -> Any:
        """Return x, or alpha · x where x is negative."""
        return e.select(x >= e.f32(0.0), x, x * e.f32(attrs.alpha))
