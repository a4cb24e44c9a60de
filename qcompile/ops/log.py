"""Natural logarithm."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs, Quantization
from qcompile.ops.elementwise import Unary, unary_converter


class Log(Unary):
    """y = ln x.

    It stays real: int8 has no resolution where the function is steepest, next to 0.

    Source:
        ONNX Log.
    """

    name = "log"
    integer = Quantization.FLOAT_ONLY
    onnx: ClassVar[dict[str, Any]] = {"Log": unary_converter("log")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return ln x."""
        return np.asarray(np.log(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return ln x."""
        return e.log(x)
