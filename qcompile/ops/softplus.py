"""Smooth rectifier."""

from __future__ import annotations

from typing import Any, ClassVar

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, softplus, unary_converter


class Softplus(Unary):
    """y = ln(1 + e^x).

    Source:
        ONNX Softplus.
    """

    name = "softplus"
    onnx: ClassVar[dict[str, Any]] = {"Softplus": unary_converter("softplus")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return ln(1 + e^x)."""
        return softplus(x)

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return ln(1 + e^x)."""
        return e.max(x, e.f32(0.0)) + e.log(e.f32(1.0) + e.exp(e.f32(0.0) - e.abs(x)))
