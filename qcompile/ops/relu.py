"""Rectifier: negative values become zero."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Relu(Unary):
    """y = max(x, 0).

    Source:
        ONNX Relu.
    """

    name = "relu"
    onnx: ClassVar[dict[str, Any]] = {"Relu": unary_converter("relu")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return max(x, 0)."""
        return np.asarray(np.maximum(x, x.dtype.type(0)))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return max(x, 0)."""
        return e.max(x, e.f32(0.0))
