"""Algebraic sigmoid."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Softsign(Unary):
    """y = x / (1 + |x|).

    Source:
        ONNX Softsign.
    """

    name = "softsign"
    onnx: ClassVar[dict[str, Any]] = {"Softsign": unary_converter("softsign")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return x / (1 + |x|)."""
        return np.asarray(x / (x.dtype.type(1) + np.abs(x)))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return x / (1 + |x|)."""
        return x / (e.f32(1.0) + e.abs(x))

    def fixed_range(self, attrs: NoAttrs) -> tuple[float, float] | None:
        """Return the function's own bounds."""
        return (-1.0, 1.0)
