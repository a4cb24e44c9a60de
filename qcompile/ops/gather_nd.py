"""Elements or slices picked by a tuple of indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.gather import in_order
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_places
from qcompile.ops.reshape import reshaped


@dataclass(frozen=True)
class GatherNdAttrs:
    """Attributes of gather_nd.

    Args:
        batch_dims: leading axes that x and the indices have in common.
    """

    batch_dims: int = 0


def _from_onnx(node: OnnxNode) -> Value:
    x, indices = node.value(0), node.value(1)
    batch = int(node.attr("batch_dims", 0))
    if indices.data is not None and not batch and indices.shape[-1:] == (len(x.shape),) and indices.data.ndim > 2:
        tuples = np.moveaxis(indices.data, -1, 0)
        inside = all(((t >= 0) & (t < d)).all() for t, d in zip(tuples, x.shape, strict=True))
        if inside and in_order(np.ravel_multi_index(tuple(tuples), x.shape), x.type.size):
            return reshaped(node, x, indices.shape[:-1])
    if node.open is not None:
        indices = open_places(node, x, indices, range(batch, batch + indices.shape[-1]))
    return node.add("gather_nd", [x, indices], batch_dims=batch)


class GatherNd(OpDef):
    """y[b…, i…, …] = x[b…, indices[b…, i…, 0], …, indices[b…, i…, k − 1], …].

    Operands: x, indices (int32 or int64; the last axis holds the tuple). Negative indices count from the end; others
    that are out of range are taken as the nearest that exists.

    Source:
        ONNX GatherND.
    """

    name = "gather_nd"
    Attrs = GatherNdAttrs
    activations = (0,)
    selects = True
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"GatherND": _from_onnx}

    def infer(self, attrs: GatherNdAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x, indices = inputs
        batch = attrs.batch_dims
        if indices.dtype not in ("int32", "int64") or not 0 <= batch < min(x.rank, indices.rank):
            raise ValueError(f"indices {indices} into {x} with {batch} batch axes")
        deep = indices.shape[-1]
        if x.shape[:batch] != indices.shape[:batch] or not 0 < deep <= x.rank - batch:
            raise ValueError(f"indices {indices} do not fit {x}")
        if 0 in x.shape[batch : batch + deep]:
            raise ValueError(f"an indexed axis of {x} is empty")
        return (x.with_shape((*indices.shape[:-1], *x.shape[batch + deep :])),)

    def evaluate(self, attrs: GatherNdAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements picked."""
        x, indices = inputs
        batch, deep = attrs.batch_dims, indices.shape[-1]
        extents = np.asarray(x.shape[batch : batch + deep])
        wrapped = np.clip(np.where(indices < 0, indices + extents, indices), 0, extents - 1)
        free = indices.ndim - 1 - batch
        leading = [
            np.arange(d).reshape((1,) * a + (d,) + (1,) * (batch - 1 - a + free)) for a, d in enumerate(x.shape[:batch])
        ]
        places = (*leading, *np.moveaxis(wrapped, -1, 0))
        return (np.ascontiguousarray(x[places]),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy that reads each tuple."""
        batch = node.attrs.batch_dims
        shape, tuples = node.inputs[0].shape, node.inputs[1].shape
        deep, rank = tuples[-1], len(tuples) - 1

        def element(e: Any, i: Any) -> Any:
            found = []
            for k in range(deep):
                extent = shape[batch + k]
                index = e.cast(e.load(1, *i[:rank], k), "int32")
                wrapped = e.select(index < 0, index + extent, index)
                found.append(e.min(e.max(wrapped, e.i32(0)), e.i32(extent - 1)))
            return e.load(0, *i[:batch], *found, *i[rank:])

        context.map(node, element)
