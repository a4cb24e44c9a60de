"""Continuously differentiable exponential linear unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary, unary_converter


@dataclass(frozen=True)
class CeluAttrs:
    """Attributes of celu.

    Args:
        alpha: limit of the negative side, with a minus sign; positive.
    """

    alpha: float = 1.0


class Celu(Unary):
    """y = max(0, x) + min(0, alpha · (e^{x/alpha} − 1)).

    Source:
        ONNX Celu; Barron 2017.
    """

    name = "celu"
    Attrs = CeluAttrs
    onnx: ClassVar[dict[str, Any]] = {"Celu": unary_converter("celu", alpha=("alpha", 1.0))}

    def function(self, attrs: CeluAttrs, x: Array) -> Array:
        """Return x, or alpha · (e^{x/alpha} − 1) where x is negative."""
        alpha, zero = x.dtype.type(attrs.alpha), x.dtype.type(0)
        return np.asarray(np.maximum(x, zero) + alpha * np.expm1(np.minimum(x, zero) / alpha))

    def expression(self, e: Any, attrs: CeluAttrs, x: Any) -> Any:
        """Return x, or alpha · (e^{x/alpha} − 1) where x is negative."""
        negative = (e.exp(e.min(x, e.f32(0.0)) * e.f32(1.0 / attrs.alpha)) - e.f32(1.0)) * e.f32(attrs.alpha)
        return e.select(x >= e.f32(0.0), x, negative)
