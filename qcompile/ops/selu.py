"""Scaled exponential linear unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary, unary_converter


@dataclass(frozen=True)
class SeluAttrs:
    """Attributes of selu.

    Args:
        alpha: limit of the negative side before scaling.
        gamma: factor of everything.
    """

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875


class Selu(Unary):
    """y = gamma · x for x ≥ 0, gamma · alpha · (e^x − 1) below.

    Source:
        ONNX Selu; Klambauer et al. 2017.
    """

    name = "selu"
    Attrs = SeluAttrs
    onnx: ClassVar[dict[str, Any]] = {
        "Selu": unary_converter(
            "selu", alpha=("alpha", 1.67326319217681884765625), gamma=("gamma", 1.05070102214813232421875)
        )
    }

    def function(self, attrs: SeluAttrs, x: Array) -> Array:
        """Return gamma times x, or alpha · (e^x − 1) where x is negative."""
        alpha, gamma = x.dtype.type(attrs.alpha), x.dtype.type(attrs.gamma)
        negative = alpha * np.expm1(np.minimum(x, x.dtype.type(0)))
        return np.asarray(gamma * np.where(x >= 0, x, negative))

    def expression(self, e: Any, attrs: SeluAttrs, x: Any) -> Any:
        """Return gamma times x, or alpha · (e^x − 1) where x is negative."""
        negative = (e.exp(e.min(x, e.f32(0.0))) - e.f32(1.0)) * e.f32(attrs.alpha)
        return e.select(x >= e.f32(0.0), x, negative) * e.f32(attrs.gamma)
