"""Bits in which two integers differ."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class BitwiseXor(Binary):
    """y = a ^ b, bit by bit, with broadcasting.

    Source:
        ONNX BitwiseXor.
    """

    name = "bitwise_xor"
    onnx: ClassVar[dict[str, Any]] = {"BitwiseXor": binary_converter("bitwise_xor")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a ^ b, bit by bit."""
        return np.asarray(a ^ b)

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a ^ b, bit by bit."""
        return e.bit_xor(a, b)
