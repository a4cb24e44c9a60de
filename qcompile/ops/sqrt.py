"""Square root."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Sqrt(Unary):
    """y = √x.

    Source:
        ONNX Sqrt.
    """

    name = "sqrt"
    onnx: ClassVar[dict[str, Any]] = {"Sqrt": unary_converter("sqrt")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return √x."""
        return np.asarray(np.sqrt(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return √x."""
        return e.sqrt(x)
