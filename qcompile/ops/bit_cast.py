"""The same bits as another element type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.cast import CastAttrs, dtype_of
from qcompile.ops.onnx_node import OnnxNode


def _from_onnx(node: OnnxNode) -> Value:
    number = int(node.attr("to"))
    dtype = dtype_of(number)
    if dtype is None or number in (10, 11, 16):
        node.fail(f"the bits of {node.type(0)} as ONNX element type {number}")
    return node.add("bit_cast", [node.value(0)], dtype=dtype)


class BitCast(OpDef):
    """y = the bytes of x, read as another element type of the same width.

    Source:
        ONNX BitCast.
    """

    name = "bit_cast"
    Attrs = CastAttrs
    onnx: ClassVar[dict[str, Any]] = {"BitCast": _from_onnx}

    def infer(self, attrs: CastAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in the new element type."""
        (x,) = inputs
        if np.dtype(x.dtype).itemsize != np.dtype(attrs.dtype).itemsize:
            raise ValueError(f"{x} and {attrs.dtype} have elements of different widths")
        return (x.with_dtype(attrs.dtype),)

    def evaluate(self, attrs: CastAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Read the bytes anew."""
        x = np.ascontiguousarray(inputs[0]).reshape(inputs[0].shape)
        return (x.view(attrs.dtype),)

    def lower(self, node: Node, context: Any) -> None:
        """Let the result be the bytes of the operand."""
        context.alias(node)
