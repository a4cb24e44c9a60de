"""Hyperbolic tangent."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Tanh(Unary):
    """y = tanh(x).

    Source:
        ONNX Tanh.
    """

    name = "tanh"
    onnx: ClassVar[dict[str, Any]] = {"Tanh": unary_converter("tanh")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return tanh(x)."""
        return np.asarray(np.tanh(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return tanh(x)."""
        return e.tanh(x)

    def fixed_range(self, attrs: NoAttrs) -> tuple[float, float] | None:
        """Return the function's own bounds."""
        return (-1.0, 1.0)
