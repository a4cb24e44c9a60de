"""Tangent."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class Tan(Unary):
    """y = tan x, x in radians.

    Source:
        ONNX Tan.
    """

    name = "tan"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"Tan": unary_converter("tan")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return tan x, x in radians."""
        return np.asarray(np.tan(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return tan x, x in radians."""
        return e.sin(x) / e.cos(x)
