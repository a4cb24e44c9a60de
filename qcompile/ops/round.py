"""Rounding to the nearest integer, halves to the even one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Round(Unary):
    """y = rne(x).

    Source:
        ONNX Round.
    """

    name = "round"
    onnx: ClassVar[dict[str, Any]] = {"Round": unary_converter("round")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return rne(x)."""
        return np.asarray(np.rint(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return rne(x)."""
        below = e.floor(x)
        rest = x - below
        odd = below * e.f32(0.5) > e.floor(below * e.f32(0.5))
        up = e.or_(rest > e.f32(0.5), e.and_(rest >= e.f32(0.5), odd))
        return e.select(up, below + e.f32(1.0), below)
