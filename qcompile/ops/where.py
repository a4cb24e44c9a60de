"""A choice between two tensors, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.elementwise import broadcast_shape
from qcompile.ops.onnx_node import OnnxNode


def _from_onnx(node: OnnxNode) -> Value:
    return node.add("where", [node.value(0), node.value(1), node.value(2)])


class Where(OpDef):
    """y = a where the condition holds, else b, with broadcasting.

    Operands: condition (bool), a, b.

    Source:
        ONNX Where.
    """

    name = "where"
    activations = (1, 2)
    onnx: ClassVar[dict[str, Any]] = {"Where": _from_onnx}

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the broadcast type."""
        condition, a, b = inputs
        if condition.dtype != "bool" or a.dtype != b.dtype:
            raise ValueError(f"a choice by {condition} between {a} and {b}")
        return (TensorType(a.dtype, broadcast_shape([condition.shape, a.shape, b.shape])),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the chosen elements."""
        return (np.where(inputs[0], inputs[1], inputs[2]),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a selection per element."""

        def element(e: Any, i: Any) -> Any:
            condition, a, b = (e.load(k, *e.broadcast(k, i)) for k in range(3))
            return e.select(condition, a, b)

        context.map(node, element)
