"""Division with broadcasting."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class Div(Binary):
    """y = a / b; integers are divided toward zero.

    It stays real: a quantized divisor near zero has no usable precision.

    Source:
        ONNX Div.
    """

    name = "div"
    onnx: ClassVar[dict[str, Any]] = {"Div": binary_converter("div")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a / b."""
        if a.dtype.kind == "f":
            return a / b
        quotient = np.abs(a) // np.abs(b)
        return np.asarray(np.where((a < 0) == (b < 0), quotient, -quotient))

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a / b."""
        return a / b
