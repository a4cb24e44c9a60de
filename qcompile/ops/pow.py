"""Power with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs
from qcompile.ir.types import TensorType
from qcompile.ops.elementwise import Binary, binary_converter, broadcast_shape


class Pow(Binary):
    """y = a^b, of the element type of a.

    Source:
        ONNX Pow.
    """

    name = "pow"
    onnx: ClassVar[dict[str, Any]] = {"Pow": binary_converter("pow")}

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the broadcast type; the exponent may have another element type."""
        base, exponent = inputs
        return (TensorType(base.dtype, broadcast_shape([base.shape, exponent.shape])),)

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a^b."""
        if a.dtype.kind == "f":
            return np.asarray(np.power(a, b.astype(a.dtype)))
        if b.dtype.kind == "f" or (b < 0).any():
            return np.asarray(np.power(a.astype(np.float64), b))
        return np.asarray(np.power(a, b))

    def lower(self, node: Node, context: Any) -> None:
        """Emit products for the exponents 2 and 3, a root for 1/2, else the power function."""
        exponent = node.inputs[1].data
        constant = None if exponent is None or exponent.size != 1 else float(exponent.reshape(()))

        def emit(e: Any, i: Any) -> Any:
            base = e.load(0, *e.broadcast(0, i))
            if constant == 2.0:
                return base * base
            if constant == 3.0:
                return base * base * base
            if constant == 0.5:
                return e.sqrt(base)
            return e.pow(base, e.cast(e.load(1, *e.broadcast(1, i)), node.inputs[0].dtype))

        context.map(node, emit)
