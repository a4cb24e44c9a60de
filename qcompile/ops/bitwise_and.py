"""Bits that both integers have."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class BitwiseAnd(Binary):
    """y = a & b, bit by bit, with broadcasting.

    Source:
        ONNX BitwiseAnd.
    """

    name = "bitwise_and"
    onnx: ClassVar[dict[str, Any]] = {"BitwiseAnd": binary_converter("bitwise_and")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a & b, bit by bit."""
        return np.asarray(a & b)

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a & b, bit by bit."""
        return e.bit_and(a, b)
