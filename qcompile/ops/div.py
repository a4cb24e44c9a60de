"""Division with broadcasting."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Binary, binary_converter


class Div(Binary):
    """y = a / b; integers are divided toward zero.

    It stays real: a quantized divisor near zero has no usable precision.

    Source:
        ONNX Div.
    """

    name = "div"
    onnx: ClassVar[dict[str, Any]] = {"Div": binary_converter("div")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a / b."""
        if a.dtype.kind == "f":
            return a / b
        quotient = np.abs(a) // np.abs(b)
        return np.asarray(np.where((a < 0) == (b < 0), quotient, -quotient))

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a / b."""
        return a / b

    def lower(self, node: Node, context: Any) -> None:
        """Emit an elementwise loop over real values."""
        if not node.output.dtype.startswith("float"):
            raise LoweringError(f"node {node}: a division of {node.output.dtype} at run time has no code")
        super().lower(node, context)
