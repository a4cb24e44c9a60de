"""Elements picked by an index of their own along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.gather import GatherAttrs
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_places


def _from_onnx(node: OnnxNode) -> Value:
    x, indices = node.value(0), node.value(1)
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    if node.open is not None:
        # The result ends where the indices do, of which nothing else tells.
        node.open.end(indices)
        indices = open_places(node, x, indices, (axis,))
    return node.add("gather_elements", [x, indices], axis=axis)


class GatherElements(OpDef):
    """y[…, i, …] = x[…, indices[…, i, …], …].

    Operands: x, indices (int32 or int64, of x's rank, nowhere longer than x but on the axis). Negative indices count
    from the end; others that are out of range are taken as the nearest that exists.

    Source:
        ONNX GatherElements.
    """

    name = "gather_elements"
    Attrs = GatherAttrs
    activations = (0,)
    selects = True
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"GatherElements": _from_onnx}

    def infer(self, attrs: GatherAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the indices' shape in the operand's element type."""
        x, indices = inputs
        if indices.dtype not in ("int32", "int64") or x.rank != indices.rank or not 0 <= attrs.axis < x.rank:
            raise ValueError(f"indices {indices} into axis {attrs.axis} of {x}")
        others = [(d, e) for a, (d, e) in enumerate(zip(indices.shape, x.shape, strict=True)) if a != attrs.axis]
        if any(d > e for d, e in others) or (indices.size and not x.shape[attrs.axis]):
            raise ValueError(f"indices {indices} do not fit {x}")
        return (x.with_shape(indices.shape),)

    def evaluate(self, attrs: GatherAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements picked."""
        x, indices = inputs
        extent = x.shape[attrs.axis]
        wrapped = np.clip(np.where(indices < 0, indices + extent, indices), 0, max(extent - 1, 0))
        region = tuple(slice(None) if a == attrs.axis else slice(d) for a, d in enumerate(indices.shape))
        return (np.take_along_axis(x[region], wrapped.astype(np.int64), attrs.axis),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy that reads each index."""
        axis = node.attrs.axis
        extent = node.inputs[0].shape[axis]

        def element(e: Any, i: Any) -> Any:
            index = e.cast(e.load(1, *i), "int32")
            wrapped = e.select(index < 0, index + extent, index)
            bounded = e.min(e.max(wrapped, e.i32(0)), e.i32(extent - 1))
            return e.load(0, *i[:axis], bounded, *i[axis + 1 :])

        context.map(node, element)
