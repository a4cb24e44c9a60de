"""Another shape for the same elements in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.layout import axis_indices, resolve_shape
from qcompile.ops.onnx_node import OnnxNode


@dataclass(frozen=True)
class ReshapeAttrs:
    """Attributes of reshape.

    Args:
        shape: extents of the result, elements; no placeholders.
    """

    shape: tuple[int, ...]


def reshaped(node: OnnxNode, x: Value, shape: Sequence[int], name: str | None = None) -> Value:
    """Return x in another shape, x itself where it has that shape already.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        shape: extents of the result.
        name: wanted name of the result.
    """
    if tuple(shape) == x.shape:
        return x
    return node.add("reshape", [x], name, shape=tuple(int(d) for d in shape))


def _reshape(node: OnnxNode) -> Value:
    x = node.value(0)
    target = node.array(1, "shape").reshape(-1).tolist()
    return reshaped(node, x, resolve_shape(target, x.shape, zero_copies=not node.attr("allowzero", 0)))


def _flatten(node: OnnxNode) -> Value:
    shape = node.type(0).shape
    axis = int(node.attr("axis", 1))
    if not -len(shape) <= axis <= len(shape):
        node.fail(f"axis {axis} is out of range for {len(shape)} axes")
    axis += len(shape) if axis < 0 else 0
    return reshaped(node, node.value(0), (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _axes(node: OnnxNode) -> Array | None:
    """Return the axes of Squeeze and Unsqueeze: an attribute before version 13, an input since."""
    if "axes" in node.attributes:
        return np.asarray(node.attributes["axes"])
    return node.array(1, "axes") if node.has(1) else None


def _squeeze(node: OnnxNode) -> Value:
    shape = node.type(0).shape
    given = _axes(node)
    axes = [a for a, d in enumerate(shape) if d == 1] if given is None else axis_indices(given, len(shape))
    for axis in axes:
        if shape[axis] != 1:
            node.fail(f"axis {axis} of {node.type(0)} has more than one element")
    return reshaped(node, node.value(0), [d for a, d in enumerate(shape) if a not in axes])


def _unsqueeze(node: OnnxNode) -> Value:
    given = _axes(node)
    if given is None:
        node.fail("axes are missing")
    shape = list(node.type(0).shape)
    for axis in sorted(axis_indices(given, len(shape) + given.size)):
        shape.insert(axis, 1)
    return reshaped(node, node.value(0), shape)


class Reshape(OpDef):
    """y has the elements of x, in the same order, in another shape.

    Source:
        ONNX Reshape, Flatten, Squeeze, Unsqueeze.
    """

    name = "reshape"
    Attrs = ReshapeAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
    }

    def infer(self, attrs: ReshapeAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        if math.prod(attrs.shape) != inputs[0].size:
            raise ValueError(f"{inputs[0]} does not fit shape {list(attrs.shape)}")
        return (inputs[0].with_shape(attrs.shape),)

    def evaluate(self, attrs: ReshapeAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements in the new shape."""
        return (inputs[0].reshape(attrs.shape),)

    def lower(self, node: Node, context: Any) -> None:
        """Let the result be the operand's bytes."""
        context.alias(node)
