"""The larger of two tensors, with broadcasting."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, variadic_converter


class Maximum(Binary):
    """y = max(a, b).

    Source:
        ONNX Max (more than two operands become a chain).
    """

    name = "maximum"
    onnx: ClassVar[dict[str, Any]] = {"Max": variadic_converter("maximum")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return max(a, b)."""
        return np.asarray(np.maximum(a, b))

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return max(a, b)."""
        return e.max(a, b)
