"""Change of sign."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class Neg(Unary):
    """y = −x.

    Source:
        ONNX Neg.
    """

    name = "neg"
    onnx: ClassVar[dict[str, Any]] = {"Neg": unary_converter("neg")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return −x."""
        return np.asarray(np.negative(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return −x."""
        return e.f32(0.0) - x
