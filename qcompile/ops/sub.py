"""Subtraction with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, Quantization, qparams_of
from qcompile.ops.elementwise import Binary, binary_converter, integer_sum, lower_sum, sum_obstacle


class Sub(Binary):
    """y = a − b.

    Integer form: `qcompile.quant.requantize.add` with a negative second multiplier.

    Source:
        ONNX Sub.
    """

    name = "sub"
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"Sub": binary_converter("sub")}

    def combine(self, attrs: NoAttrs, a: Array, b: Array) -> Array:
        """Return a − b."""
        return a - b

    def expression(self, e: Any, attrs: NoAttrs, a: Any, b: Any) -> Any:
        """Return a − b."""
        return a - b

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Subtract in fixed point."""
        (a, b), (y,) = qparams_of(node)
        return (integer_sum(inputs[0], inputs[1], a, b, y, (1, -1)),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse scales whose ratio int32 fixed point cannot hold."""
        return sum_obstacle(node, (1, -1))

    def lower(self, node: Node, context: Any) -> None:
        """Emit the fixed-point difference, or the real one."""
        if node.is_integer:
            lower_sum(node, context, (1, -1))
        else:
            super().lower(node, context)
