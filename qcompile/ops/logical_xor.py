"""Logic: exactly one holds."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class LogicalXor(Binary):
    """y = a ≠ b, a truth value, with broadcasting.

    Source:
        ONNX Xor.
    """

    name = "logical_xor"
    result_dtype = "bool"
    onnx: ClassVar[dict[str, Any]] = {"Xor": binary_converter("logical_xor")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a ≠ b, a truth value."""
        return np.asarray(a ^ b)

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a ≠ b, a truth value."""
        return e.or_(e.and_(a, e.not_(b)), e.and_(b, e.not_(a)))
