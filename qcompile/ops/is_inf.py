"""Test for infinity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class IsInfAttrs:
    """Attributes of is_inf.

    Args:
        positive: whether +∞ counts.
        negative: whether −∞ counts.
    """

    positive: bool = True
    negative: bool = True


def _from_onnx(node: OnnxNode) -> Value:
    return node.add(
        "is_inf",
        [node.value(0)],
        positive=bool(node.attr("detect_positive", 1)),
        negative=bool(node.attr("detect_negative", 1)),
    )


class IsInf(OpDef):
    """y = whether x is one of the infinities asked for.

    Source:
        ONNX IsInf.
    """

    name = "is_inf"
    Attrs = IsInfAttrs
    onnx: ClassVar[dict[str, Any]] = {"IsInf": _from_onnx}

    def infer(self, attrs: IsInfAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in truth values."""
        return (inputs[0].with_dtype("bool"),)

    def evaluate(self, attrs: IsInfAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Test each element."""
        x = inputs[0]
        found = np.zeros(x.shape, np.bool_)
        if attrs.positive:
            found |= np.isposinf(x)
        if attrs.negative:
            found |= np.isneginf(x)
        return (found,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit comparisons with the largest finite numbers."""
        largest = float(np.finfo(np.float32).max)

        def element(e: Any, i: Any) -> Any:
            x = e.load(0, *i)
            above, below = x > e.f32(largest), x < e.f32(-largest)
            if node.attrs.positive and node.attrs.negative:
                return e.or_(above, below)
            if node.attrs.positive or node.attrs.negative:
                return above if node.attrs.positive else below
            return e.and_(above, below)

        context.map(node, element)
