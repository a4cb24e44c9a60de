"""Multiplicative inverse."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class Reciprocal(Unary):
    """y = 1 / x.

    It stays real: int8 has no resolution where the function is steepest, next to 0.

    Source:
        ONNX Reciprocal.
    """

    name = "reciprocal"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"Reciprocal": unary_converter("reciprocal")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return 1 / x."""
        return np.asarray(x.dtype.type(1) / x)

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return 1 / x."""
        return e.f32(1.0) / x
