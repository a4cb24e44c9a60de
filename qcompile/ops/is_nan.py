"""Test for NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, NoAttrs, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.elementwise import unary_converter


class IsNan(OpDef):
    """y = whether x is NaN.

    Source:
        ONNX IsNaN.
    """

    name = "is_nan"
    onnx: ClassVar[dict[str, Any]] = {"IsNaN": unary_converter("is_nan")}

    def infer(self, attrs: NoAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in truth values."""
        return (inputs[0].with_dtype("bool"),)

    def evaluate(self, attrs: NoAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Test each element."""
        return (np.asarray(np.isnan(inputs[0])),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a comparison: NaN is not equal to itself."""
        context.map(node, lambda e, i: e.not_(e.equal(e.load(0, *i), e.load(0, *i))))
