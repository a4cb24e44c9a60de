"""A copy: what is left of operators that do nothing at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, NoAttrs, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode


def _from_onnx(node: OnnxNode) -> Value:
    return node.value(0)


def _dropout(node: OnnxNode) -> Value | tuple[Value, ...]:
    if node.has(2) and bool(node.array(2, "training_mode").any()):
        node.fail("training mode", hint="export the model for inference (eval mode)")
    if len(node.outputs) == 1:
        return node.value(0)
    return node.value(0), node.constant("mask", np.ones(node.type(0).shape, np.bool_))


class Identity(OpDef):
    """y = x.

    ONNX nodes that do nothing are replaced by their operand at import; the operation itself serves where a
    result needs a tensor of its own.

    Source:
        ONNX Identity, Dropout at inference.
    """

    name = "identity"
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Identity": _from_onnx, "Dropout": _dropout}

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        return (inputs[0],)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the operand."""
        return (inputs[0],)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy."""
        context.map(node, lambda e, i: e.load(0, *i))
