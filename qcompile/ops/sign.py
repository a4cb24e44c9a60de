"""Sign of each element."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Sign(Unary):
    """y = −1, 0 or 1.

    Source:
        ONNX Sign.
    """

    name = "sign"
    onnx: ClassVar[dict[str, Any]] = {"Sign": unary_converter("sign")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return −1, 0 or 1."""
        return np.asarray(np.sign(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return −1, 0 or 1."""
        return e.select(x > e.f32(0.0), e.f32(1.0), e.select(x < e.f32(0.0), e.f32(-1.0), e.f32(0.0)))

    def fixed_range(self, attrs: NoAttrs) -> tuple[float, float] | None:
        """Return the function's own bounds."""
        return (-1.0, 1.0)
