"""Rectifier: negative values become zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode


class Relu(OpDef):
    """y = max(x, 0).

    Source:
        ONNX Relu.
    """

    name = "relu"
    integer = Quantization.TABLE
    onnx: ClassVar[dict[str, Any]] = {"Relu": lambda node: _from_onnx(node)}

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        return (inputs[0],)

    def function(self, attrs: NoAttrs, x: Array) -> Array:
        """Return max(x, 0)."""
        return np.maximum(x, x.dtype.type(0))

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute max(x, 0)."""
        return (self.function(attrs, inputs[0]),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a table look-up in integer form, else an elementwise maximum."""
        if node.is_integer:
            context.table(node)
        else:
            context.map(node, lambda e, i: e.max(e.load(0, *i), e.f32(0.0)))


def _from_onnx(node: OnnxNode) -> Any:
    return node.add("relu", [node.value(0)])
