"""Hyperbolic sine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Sinh(Unary):
    """y = sinh x.

    Source:
        ONNX Sinh.
    """

    name = "sinh"
    onnx: ClassVar[dict[str, Any]] = {"Sinh": unary_converter("sinh")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return sinh x."""
        return np.asarray(np.sinh(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return sinh x."""
        # tanh is exact near 0, where the difference of two exponentials would cancel.
        growing = e.exp(e.abs(x))
        return e.tanh(x) * (growing + e.f32(1.0) / growing) * e.f32(0.5)
