"""Inverse hyperbolic cosine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class Acosh(Unary):
    """y = arcosh x.

    The loops compute ln(x + √(x² − 1)); below 1 the result is NaN.

    Source:
        ONNX Acosh.
    """

    name = "acosh"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"Acosh": unary_converter("acosh")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return arcosh x."""
        return np.asarray(np.arccosh(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return arcosh x."""
        return e.log(x + e.sqrt((x - e.f32(1.0)) * (x + e.f32(1.0))))
