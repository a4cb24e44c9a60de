"""x times the tanh of its softplus."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, softplus, unary_converter


class Mish(Unary):
    """y = x · tanh(ln(1 + e^x)).

    Source:
        ONNX Mish; Misra 2019.
    """

    name = "mish"
    onnx: ClassVar[dict[str, Any]] = {"Mish": unary_converter("mish")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return x · tanh(softplus(x))."""
        return np.asarray(x * np.tanh(softplus(x)))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return x · tanh(softplus(x))."""
        smooth = e.max(x, e.f32(0.0)) + e.log(e.f32(1.0) + e.exp(e.f32(0.0) - e.abs(x)))
        return x * e.tanh(smooth)
