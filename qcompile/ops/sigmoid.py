"""Logistic function."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, sigmoid, unary_converter


class Sigmoid(Unary):
    """y = 1 / (1 + e^−x).

    Source:
        ONNX Sigmoid.
    """

    name = "sigmoid"
    onnx: ClassVar[dict[str, Any]] = {"Sigmoid": unary_converter("sigmoid")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return 1 / (1 + e^−x)."""
        return sigmoid(x)

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return 1 / (1 + e^−x)."""
        return e.sigmoid(x)

    def fixed_range(self, attrs: NoAttrs) -> tuple[float, float] | None:
        """Return the function's own bounds."""
        return (0.0, 1.0)
