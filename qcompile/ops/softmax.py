"""Softmax: exponentials that sum to one along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class SoftmaxAttrs:
    """Attributes of softmax.

    Args:
        axis: the axis that sums to one; negative counts from the end.
    """

    axis: int = -1


def normalized_axis_converter(op: str) -> Any:
    """Return a converter for an ONNX operator that normalizes along `axis`.

    Before opset 13 the axis splits the shape in two and everything from it on is normalized together.

    Args:
        op: name of the IR operation, with an attribute `axis`.
    """

    def convert(node: OnnxNode) -> Value:
        x = node.value(0)
        rank = len(x.shape)
        axis = int(node.attr("axis", -1 if node.opset >= 13 else 1))
        if not -rank <= axis < max(rank, 1):
            node.fail(f"axis {axis} of {x.type}")
        axis %= max(rank, 1)
        if node.opset >= 13 or math.prod(x.shape[axis + 1 :]) == 1:
            return node.add(op, [x], axis=axis)
        name = node.outputs[0]
        matrix = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        flat = node.add("reshape", [x], name=f"{name}.flat", shape=matrix)
        rows = node.add(op, [flat], name=f"{name}.rows", axis=1)
        return node.add("reshape", [rows], shape=tuple(x.shape))

    return convert


class Softmax(OpDef):
    """y = e^(x − max x) / Σ e^(x − max x) along the axis.

    It stays real: its result needs more resolution than 8 bits, and its cost is small.

    Source:
        ONNX Softmax.
    """

    name = "softmax"
    Attrs = SoftmaxAttrs
    onnx: ClassVar[dict[str, Any]] = {"Softmax": normalized_axis_converter("softmax")}

    def infer(self, attrs: SoftmaxAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's type."""
        check_axis(attrs.axis, inputs)
        return (inputs[0],)

    def evaluate(self, attrs: SoftmaxAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute in the precision of the operand."""
        x = inputs[0]
        y = np.exp(x - x.max(axis=attrs.axis, keepdims=True, initial=-np.inf))
        y /= y.sum(axis=attrs.axis, keepdims=True)
        return (y,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a softmax kernel."""
        context.softmax(node)


def check_axis(axis: int, inputs: Sequence[TensorType]) -> None:
    """Check that one operand has the axis.

    Raises:
        ValueError: it has not.
    """
    if len(inputs) != 1 or not -inputs[0].rank <= axis < inputs[0].rank:
        raise ValueError(f"axis {axis} of {', '.join(map(str, inputs))}")
