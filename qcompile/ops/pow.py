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
        if b.dtype.kind == "f":
            return np.asarray(np.power(a.astype(np.float64), b).astype(np.float32))
        whole = np.power(a, np.maximum(b, 0))
        return np.asarray(np.where(b < 0, np.where(np.abs(a) == 1, np.where(b & 1 == 1, a, 1), 0), whole))

    def lower(self, node: Node, context: Any) -> None:
        """Emit products for the exponents 2 and 3, a root for 1/2, else the power function."""
        exponent, dtype = node.inputs[1].data, node.inputs[0].dtype
        constant = None if exponent is None or exponent.size != 1 else float(exponent.reshape(()))
        kinds = [value.dtype.startswith(("float", "bfloat")) for value in node.inputs]

        def emit(e: Any, i: Any) -> Any:
            base = e.load(0, *e.broadcast(0, i))
            if constant == 2.0:
                return base * base
            if constant == 3.0:
                return base * base * base
            if constant == 0.5 and kinds[0]:
                return e.sqrt(base)
            power = e.load(1, *e.broadcast(1, i))
            if kinds[0]:
                return e.pow(base, e.cast(power, dtype))
            if kinds[1]:
                return e.cast(e.pow(e.cast(base, "float32"), e.cast(power, "float32")), dtype)
            return _whole(e, base, power)

        context.map(node, emit)


def _whole(e: Any, base: Any, power: Any) -> Any:
    """Return a^b of integers: the nearest one to what float64 gives; a negative b leaves what is no fraction.

    Args:
        e: the expression builder.
        base: a.
        power: b.
    """
    y = e.cast(e.floor(e.pow(e.cast(base, "float64"), e.cast(power, "float64")) + 0.5), base.dtype)
    unit = e.or_(e.equal(base, 1), e.equal(base, -1))
    return e.select(e.or_(e.cast(power, "int64") >= 0, unit), y, e.cast(e.i32(0), base.dtype))
