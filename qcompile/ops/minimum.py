"""The smaller of two tensors, with broadcasting."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, variadic_converter


class Minimum(Binary):
    """y = min(a, b).

    Source:
        ONNX Min (more than two operands become a chain).
    """

    name = "minimum"
    onnx: ClassVar[dict[str, Any]] = {"Min": variadic_converter("minimum")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return min(a, b)."""
        return np.asarray(np.minimum(a, b))

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return min(a, b)."""
        return e.min(a, b)
