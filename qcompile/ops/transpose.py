"""Another order of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped


@dataclass(frozen=True)
class TransposeAttrs:
    """Attributes of transpose.

    Args:
        perm: axis of the operand that becomes each axis of the result.
    """

    perm: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.perm))):
            raise ValueError(f"perm {list(self.perm)} is not an order of {len(self.perm)} axes")

    def inverse(self) -> tuple[int, ...]:
        """Return the perm that undoes this one."""
        return tuple(self.perm.index(axis) for axis in range(len(self.perm)))


def transposed(node: OnnxNode, x: Value, perm: Sequence[int], name: str | None = None) -> Value:
    """Return x with its axes in another order, x itself where that is the order it has.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        perm: axis of x that becomes each axis of the result.
        name: wanted name of the result.
    """
    if list(perm) == list(range(len(x.shape))):
        return x
    return node.add("transpose", [x], name, perm=tuple(int(a) for a in perm))


def _transpose(node: OnnxNode) -> Value:
    x = node.value(0)
    return transposed(node, x, node.attr("perm", list(range(len(x.shape)))[::-1]))


def _depth_to_space(node: OnnxNode) -> Value:
    n, c, h, w = _image(node)
    b = int(node.attr("blocksize"))
    if b < 1 or c % (b * b):
        node.fail(f"{c} channels do not make blocks of {b} × {b}")
    if node.attr("mode", "DCR") == "DCR":
        split, perm = (n, b, b, c // b // b, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, c // b // b, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return _rearrange(node, split, perm, (n, c // b // b, h * b, w * b))


def _space_to_depth(node: OnnxNode) -> Value:
    n, c, h, w = _image(node)
    b = int(node.attr("blocksize"))
    if b < 1 or h % b or w % b:
        node.fail(f"{h} × {w} does not divide into blocks of {b} × {b}")
    split = (n, c, h // b, b, w // b, b)
    perm = (0, 3, 5, 1, 2, 4) if node.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _rearrange(node, split, perm, (n, c * b * b, h // b, w // b))


def _image(node: OnnxNode) -> tuple[int, ...]:
    shape = node.type(0).shape
    if len(shape) != 4:
        node.fail(f"{node.type(0)} is not a 4-D tensor")
    return shape


def _rearrange(node: OnnxNode, split: Sequence[int], perm: Sequence[int], shape: Sequence[int]) -> Value:
    name = node.outputs[0]
    apart = reshaped(node, node.value(0), split, f"{name}.split")
    return reshaped(node, transposed(node, apart, perm, f"{name}.moved"), shape)


class Transpose(OpDef):
    """y[i[perm[0]], i[perm[1]], …] = x[i[0], i[1], …].

    Source:
        ONNX Transpose; DepthToSpace and SpaceToDepth are a transpose between two reshapes.
    """

    name = "transpose"
    Attrs = TransposeAttrs
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {
        "Transpose": _transpose,
        "DepthToSpace": _depth_to_space,
        "SpaceToDepth": _space_to_depth,
    }

    def infer(self, attrs: TransposeAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        if len(attrs.perm) != inputs[0].rank:
            raise ValueError(f"perm {list(attrs.perm)} does not fit {inputs[0]}")
        return (inputs[0].with_shape(tuple(inputs[0].shape[a] for a in attrs.perm)),)

    def evaluate(self, attrs: TransposeAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements in the new order."""
        return (np.ascontiguousarray(inputs[0].transpose(attrs.perm)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy."""
        order = node.attrs.inverse()
        context.map(node, lambda e, i: e.load(0, *(i[k] for k in order)))
