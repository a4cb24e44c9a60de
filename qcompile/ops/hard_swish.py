"""x times a sigmoid made of straight lines."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, unary_converter


class HardSwish(Unary):
    """y = x · max(0, min(1, x / 6 + 1/2)).

    Source:
        ONNX HardSwish.
    """

    name = "hard_swish"
    onnx: ClassVar[dict[str, Any]] = {"HardSwish": unary_converter("hard_swish")}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return x times its gate."""
        zero, one = x.dtype.type(0), x.dtype.type(1)
        gate = np.minimum(np.maximum(x * x.dtype.type(1 / 6) + x.dtype.type(0.5), zero), one)
        return np.asarray(x * gate)

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return x times its gate."""
        gate = e.min(e.max(x * e.f32(1 / 6) + e.f32(0.5), e.f32(0.0)), e.f32(1.0))
        return x * gate
