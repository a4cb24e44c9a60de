"""Elements or slices picked by index along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_gathered
from qcompile.ops.packed_weights import packed_source
from qcompile.ops.reshape import reshaped


@dataclass(frozen=True)
class GatherAttrs:
    """Attributes of gather.

    Args:
        axis: the axis of x that is indexed, counted from the front.
    """

    axis: int = 0


def _from_onnx(node: OnnxNode) -> Value:
    x, indices = node.value(0), node.value(1)
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    extent = x.shape[axis]
    if indices.data is not None:
        known = indices.data
        outside = known[(known < -extent) | (known >= extent)]
        if outside.size:
            node.fail(f"index {int(outside.reshape(-1)[0])} is out of range for an axis of {extent} elements")
    if indices.data is not None and axis == 0 and indices.data.ndim > 1 and in_order(indices.data, x.type.size):
        # Exporters look up the whole mask of keys by a table of all its places.
        return reshaped(node, x, (*indices.shape, *x.shape[1:]))
    found = open_gathered(node, x, indices, axis) if node.open is not None else None
    return node.add("gather", [x, indices], axis=axis) if found is None else found


def in_order(places: Array, size: int) -> bool:
    """Return whether places are all of a tensor's elements, more than one, in their order."""
    return 1 < size == places.size and bool((places.reshape(-1) == np.arange(size)).all())


class Gather(OpDef):
    """y[…, i…, …] = x[…, indices[i…], …].

    Operands: x, indices (int32 or int64, any shape). Negative indices count from the end; others that are out of
    range are taken as the nearest that exists, so that no input can make a kernel read elsewhere.

    Source:
        ONNX Gather.
    """

    name = "gather"
    Attrs = GatherAttrs
    activations = (0,)
    selects = True
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Gather": _from_onnx}

    def infer(self, attrs: GatherAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, indices = inputs
        if not 0 <= attrs.axis < x.rank:
            raise ValueError(f"axis {attrs.axis} is out of range for {x}")
        if indices.dtype not in ("int32", "int64"):
            raise ValueError(f"indices {indices} are not int32 or int64")
        if x.shape[attrs.axis] == 0 and indices.size:
            raise ValueError(f"axis {attrs.axis} of {x} is empty")
        return (x.with_shape((*x.shape[: attrs.axis], *indices.shape, *x.shape[attrs.axis + 1 :])),)

    def evaluate(self, attrs: GatherAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements picked."""
        x, indices = inputs
        extent = x.shape[attrs.axis]
        if indices.size == 1 and extent:  # as loops do it at each step
            place = indices.item()
            place = min(max(place + extent if place < 0 else place, 0), extent - 1)
            shape = (*x.shape[: attrs.axis], *indices.shape, *x.shape[attrs.axis + 1 :])
            return (x[(slice(None),) * attrs.axis + (slice(place, place + 1),)].copy().reshape(shape),)
        wrapped = np.where(indices < 0, indices + extent, indices)
        return (np.take(x, np.clip(wrapped, 0, max(extent - 1, 0)), attrs.axis),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy that reads each index."""
        axis = node.attrs.axis
        rank = len(node.inputs[1].shape)
        source: Any = packed_source(node.inputs[0])
        extent = node.inputs[0].shape[axis]

        def element(e: Any, i: Any) -> Any:
            index = e.cast(e.load(1, *i[axis : axis + rank]), "int32")
            wrapped = e.select(index < 0, index + extent, index)
            bounded = e.min(e.max(wrapped, e.i32(0)), e.i32(extent - 1))
            place = (*i[:axis], bounded, *i[axis + rank :])
            return source.op.element(e, context, source, place) if source is not None else e.load(0, *place)

        context.map(node, element)
