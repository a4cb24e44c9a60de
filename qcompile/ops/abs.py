"""Absolute value."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Abs(Unary):
    """y = |x|.

    Source:
        ONNX Abs.
    """

    name = "abs"
    onnx: ClassVar[dict[str, Any]] = {"Abs": unary_converter("abs")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return |x|."""
        return np.asarray(np.abs(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return |x|."""
        return e.abs(x)
