"""Comparison: equal."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class Equal(Binary):
    """y = a = b, a truth value, with broadcasting.

    Source:
        ONNX Equal.
    """

    name = "equal"
    result_dtype = "bool"
    onnx: ClassVar[dict[str, Any]] = {"Equal": binary_converter("equal")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a = b."""
        return np.asarray(a == b)

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a = b."""
        return e.equal(a, b)
