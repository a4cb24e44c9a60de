"""Inverse tangent."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Atan(Unary):
    """y = arctan x, in radians.

    Source:
        ONNX Atan.
    """

    name = "atan"
    onnx: ClassVar[dict[str, Any]] = {"Atan": unary_converter("atan")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return arctan x, in radians."""
        return np.asarray(np.arctan(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return arctan x, in radians."""
        return e.atan(x)
