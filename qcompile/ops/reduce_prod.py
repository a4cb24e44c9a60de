"""Product over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array
from qcompile.ops.reduction import ReduceAttrs, Reduction, reduce_converter


class ReduceProd(Reduction):
    """y = Π x over the axes.

    Source:
        ONNX ReduceProd.
    """

    name = "reduce_prod"
    Attrs = ReduceAttrs
    onnx: ClassVar[dict[str, Any]] = {"ReduceProd": reduce_converter("reduce_prod", axes_input_since=18)}

    def evaluate(self, attrs: ReduceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Multiply in the precision of the operand."""
        x = inputs[0]
        return (np.asarray(np.prod(x, axis=attrs.axes, keepdims=attrs.keepdims, dtype=x.dtype)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a product."""
        init = (1, node.output.dtype)
        self.lower_reduction(node, context, "prod", init, lambda e, acc, i: acc)
