"""x times its sigmoid (Swish)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ops.elementwise import Unary, sigmoid
from qcompile.ops.onnx_node import OnnxNode


def _from_onnx(node: OnnxNode) -> Value:
    x, alpha = node.value(0), float(node.attr("alpha", 1.0))
    if alpha == 1.0:
        return node.add("silu", [x])
    name = node.outputs[0]
    scaled = node.add("mul", [x, node.constant("alpha", alpha, x.dtype)], name=f"{name}.scaled")
    return node.add("mul", [x, node.add("sigmoid", [scaled], name=f"{name}.gate")])


class Silu(Unary):
    """y = x / (1 + e^−x).

    Source:
        ONNX Swish with alpha = 1 (another alpha is imported as mul and sigmoid); Ramachandran et al. 2017.
    """

    name = "silu"
    onnx: ClassVar[dict[str, Any]] = {"Swish": _from_onnx}

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return x · sigmoid(x)."""
        return np.asarray(x * sigmoid(x))

    def expression(self, e: Any, attrs: NoAttrs, x: Any) -> Any:
        """Return x · sigmoid(x)."""
        return x * e.sigmoid(x)
