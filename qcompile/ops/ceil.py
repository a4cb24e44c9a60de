"""Rounding up."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Ceil(Unary):
    """y = ⌈x⌉.

    Source:
        ONNX Ceil.
    """

    name = "ceil"
    onnx: ClassVar[dict[str, Any]] = {"Ceil": unary_converter("ceil")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return ⌈x⌉."""
        return np.asarray(np.ceil(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return ⌈x⌉."""
        return e.f32(0.0) - e.floor(e.f32(0.0) - x)
