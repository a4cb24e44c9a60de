"""Sine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Sin(Unary):
    """y = sin x, x in radians.

    Source:
        ONNX Sin.
    """

    name = "sin"
    onnx: ClassVar[dict[str, Any]] = {"Sin": unary_converter("sin")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return sin x, x in radians."""
        return np.asarray(np.sin(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return sin x, x in radians."""
        return e.sin(x)
