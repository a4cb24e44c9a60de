"""Exponential linear unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array
from qcompile.ops.elementwise import Unary, unary_converter


@dataclass(frozen=True)
class EluAttrs:
    """Attributes of elu.

    Args:
        alpha: limit of the negative side, with a minus sign.
    """

    alpha: float = 1.0


class Elu(Unary):
    """y = x for x ≥ 0, alpha · (e^x − 1) below.

    Source:
        ONNX Elu.
    """

    name = "elu"
    Attrs = EluAttrs
    onnx: ClassVar[dict[str, Any]] = {"Elu": unary_converter("elu", alpha=("alpha", 1.0))}

    def function(self, attrs: EluAttrs, x: Array) -> Array:
        """Return x, or alpha · (e^x − 1) where x is negative."""
        negative = x.dtype.type(attrs.alpha) * np.expm1(np.minimum(x, x.dtype.type(0)))
        return np.where(x >= 0, x, negative)

    def expression(self, e: Any, attrs: EluAttrs, x: Any) -> Any:
        """Return x, or alpha · (e^x − 1) where x is negative."""
        negative = (e.exp(e.min(x, e.f32(0.0))) - e.f32(1.0)) * e.f32(attrs.alpha)
        return e.select(x >= e.f32(0.0), x, negative)
