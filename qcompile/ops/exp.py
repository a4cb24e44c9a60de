"""Exponential function."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Exp(Unary):
    """y = e^x.

    Source:
        ONNX Exp.
    """

    name = "exp"
    onnx: ClassVar[dict[str, Any]] = {"Exp": unary_converter("exp")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return e^x."""
        return np.asarray(np.exp(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return e^x."""
        return e.exp(x)
