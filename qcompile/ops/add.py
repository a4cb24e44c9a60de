"""Addition with broadcasting and an optional fused activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, Quantization, qparams_of
from qcompile.ops.arithmetic import activate, activation_op, activation_table, check_activation
from qcompile.ops.elementwise import (
    Binary,
    Unary,
    binary_converter,
    integer_sum,
    lower_sum,
    sum_obstacle,
    variadic_converter,
)
from qcompile.quant.qparams import QParams


@dataclass(frozen=True)
class AddAttrs:
    """Attributes of add.

    Args:
        activation: applied to the sum, one of ACTIVATIONS.
        alpha: first parameter of the activation.
        beta: second parameter of the activation.
        pre_activation: integer form: QParams of the sum before an activation that is a table.
    """

    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    pre_activation: QParams | None = None

    def __post_init__(self) -> None:
        check_activation(self.activation)


class Add(Binary):
    """y = act(a + b).

    Integer form: `qcompile.quant.requantize.add`, then the table of the activation where it is no clamp.

    Source:
        ONNX Add (and Sum, folded into a chain).
    """

    name = "add"
    Attrs = AddAttrs
    integer = Quantization.ARITHMETIC
    takes_int16 = True
    onnx: ClassVar[dict[str, Any]] = {"Add": binary_converter("add"), "Sum": variadic_converter("add")}

    def combine(self, attrs: AddAttrs, a: Array, b: Array) -> Array:
        """Return act(a + b)."""
        return activate(a + b, attrs.activation, attrs.alpha, attrs.beta)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Add in fixed point; see `qcompile.quant.requantize.add`."""
        (a, b), (y,) = qparams_of(node)
        attrs = node.attrs
        before = attrs.pre_activation or y
        q = integer_sum(inputs[0], inputs[1], a, b, before)
        if attrs.pre_activation is not None:
            q = activation_table(attrs, before, y)[q.astype(np.int16) + 128]
        return (q,)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse scales whose ratio int32 fixed point cannot hold."""
        return sum_obstacle(node, (1, 1), node.attrs.pre_activation)

    def lower(self, node: Node, context: Any) -> None:
        """Emit the fixed-point sum, or the real one with its activation."""
        attrs = node.attrs
        if node.is_integer:
            table = None
            if attrs.pre_activation is not None:
                assert node.output.qparams is not None
                table = activation_table(attrs, attrs.pre_activation, node.output.qparams)
            lower_sum(node, context, (1, 1), attrs.pre_activation, table)
        else:
            super().lower(node, context)

    def expression(self, e: Any, attrs: AddAttrs, a: Any, b: Any) -> Any:
        """Return act(a + b)."""
        if attrs.activation == "none":
            return a + b
        op, parameters = activation_op(attrs.activation, attrs.alpha, attrs.beta)
        assert isinstance(op, Unary)
        return op.expression(e, parameters, a + b)
