"""Inverse hyperbolic tangent."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class Atanh(Unary):
    """y = artanh x.

    The loops compute ½ · ln((1 + x) / (1 − x)); beyond ±1 the result is NaN.

    Source:
        ONNX Atanh.
    """

    name = "atanh"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"Atanh": unary_converter("atanh")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return artanh x."""
        return np.asarray(np.arctanh(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return artanh x."""
        return e.f32(0.5) * e.log((e.f32(1.0) + x) / (e.f32(1.0) - x))
