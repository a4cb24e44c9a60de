"""Logarithm of the softmax along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.softmax import SoftmaxAttrs, check_axis, normalized_axis_converter


class LogSoftmax(OpDef):
    """y = x − max x − ln Σ e^(x − max x) along the axis.

    Source:
        ONNX LogSoftmax.
    """

    name = "log_softmax"
    Attrs = SoftmaxAttrs
    onnx: ClassVar[dict[str, Any]] = {"LogSoftmax": normalized_axis_converter("log_softmax")}

    def infer(self, attrs: SoftmaxAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        check_axis(attrs.axis, inputs)
        return (inputs[0],)

    def evaluate(self, attrs: SoftmaxAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of the operand."""
        shifted = inputs[0] - inputs[0].max(axis=attrs.axis, keepdims=True, initial=-np.inf)
        return (shifted - np.log(np.exp(shifted).sum(axis=attrs.axis, keepdims=True)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a softmax kernel, which looks at the operation's name."""
        context.softmax(node)
