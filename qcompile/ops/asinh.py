"""Inverse hyperbolic sine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Asinh(Unary):
    """y = arsinh x.

    The loops compute sign(x) · ln(|x| + √(x² + 1)).

    Source:
        ONNX Asinh.
    """

    name = "asinh"
    onnx: ClassVar[dict[str, Any]] = {"Asinh": unary_converter("asinh")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return arsinh x."""
        return np.asarray(np.arcsinh(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return arsinh x."""
        size = e.abs(x)
        value = e.log(size + e.sqrt(size * size + e.f32(1.0)))
        return e.select(x < e.f32(0.0), e.f32(0.0) - value, value)
