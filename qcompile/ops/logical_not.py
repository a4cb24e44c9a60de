"""Logic: the opposite."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class LogicalNot(Unary):
    """y = ¬x, for truth values.

    Source:
        ONNX Not.
    """

    name = "logical_not"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"Not": unary_converter("logical_not")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return ¬x."""
        return np.asarray(np.logical_not(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return ¬x."""
        return e.not_(x)
