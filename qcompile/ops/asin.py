"""Inverse sine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Asin(Unary):
    """y = arcsin x, in radians.

    The loops compute arctan(x / √(1 − x²)); beyond ±1 the result is NaN.

    Source:
        ONNX Asin.
    """

    name = "asin"
    onnx: ClassVar[dict[str, Any]] = {"Asin": unary_converter("asin")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return arcsin x, in radians."""
        return np.asarray(np.arcsin(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return arcsin x, in radians."""
        return e.atan(x / e.sqrt((e.f32(1.0) - x) * (e.f32(1.0) + x)))
