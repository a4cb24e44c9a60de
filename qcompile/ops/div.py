"""Division with broadcasting."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class Div(Binary):
    """y = a / b; integers are divided toward zero, and by 0 give 0.

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
        one = a.dtype.type(1)
        safe = np.where(b == 0, one, b)
        quotient = a // safe
        if a.dtype.kind == "i":
            quotient = quotient + ((quotient * safe != a) & ((a < 0) != (safe < 0)))
        return np.where(b == 0, a.dtype.type(0), quotient)

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a / b; an integer divided by 0 gives 0, as no machine agrees with another there."""
        if str(a.dtype).startswith("float"):
            return a / b
        zero, one = (e.cast(e.i32(n), a.dtype) for n in (0, 1))
        safe = e.select(e.equal(b, zero), one, b)
        if str(a.dtype).startswith("uint"):
            return e.select(e.equal(b, zero), zero, a // safe)
        # The smallest integer divided by −1 would trap.
        minus = e.equal(b, e.cast(e.i32(-1), a.dtype))
        quotient = a // e.select(minus, one, safe)
        return e.select(e.equal(b, zero), zero, e.select(minus, zero - a, quotient))
