"""Hyperbolic cosine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Cosh(Unary):
    """y = cosh x.

    Source:
        ONNX Cosh.
    """

    name = "cosh"
    onnx: ClassVar[dict[str, Any]] = {"Cosh": unary_converter("cosh")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return cosh x."""
        return np.asarray(np.cosh(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return cosh x."""
        growing = e.exp(e.abs(x))
        return (growing + e.f32(1.0) / growing) * e.f32(0.5)
