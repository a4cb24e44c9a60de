"""Rounding down."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Floor(Unary):
    """y = ⌊x⌋.

    Source:
        ONNX Floor.
    """

    name = "floor"
    onnx: ClassVar[dict[str, Any]] = {"Floor": unary_converter("floor")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return ⌊x⌋."""
        return np.asarray(np.floor(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return ⌊x⌋."""
        return e.floor(x)
