"""Cosine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Cos(Unary):
    """y = cos x, x in radians.

    Source:
        ONNX Cos.
    """

    name = "cos"
    onnx: ClassVar[dict[str, Any]] = {"Cos": unary_converter("cos")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return cos x, x in radians."""
        return np.asarray(np.cos(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return cos x, x in radians."""
        return e.cos(x)
