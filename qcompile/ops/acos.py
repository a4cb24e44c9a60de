"""Inverse cosine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Acos(Unary):
    """y = arccos x, in radians.

    The loops compute 2·arctan(√((1 − x) / (1 + x))); beyond ±1 the result is NaN.

    Source:
        ONNX Acos.
    """

    name = "acos"
    onnx: ClassVar[dict[str, Any]] = {"Acos": unary_converter("acos")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return arccos x, in radians."""
        return np.asarray(np.arccos(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return arccos x, in radians."""
        return e.f32(2.0) * e.atan(e.sqrt((e.f32(1.0) - x) / (e.f32(1.0) + x)))
