"""Bits that an integer does not have."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class BitwiseNot(Unary):
    """y = ~x, bit by bit.

    Source:
        ONNX BitwiseNot.
    """

    name = "bitwise_not"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"BitwiseNot": unary_converter("bitwise_not")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return ~x."""
        return np.asarray(~x)

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return x with every bit changed."""
        ones = e.cast(e.i32(-1), x.dtype)
        return e.bit_xor(x, ones)
