"""Where the elements of the first places stand: a permutation inverted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.layout import replace_axis


@dataclass(frozen=True)
class PlaceOfRankAttrs:
    """Attributes of place_of_rank.

    Args:
        axis: the axis of the ranks, not negative.
        count: how many places are wanted.
    """

    axis: int = 0
    count: int = 1


class PlaceOfRank(OpDef):
    """y[k] = min {j : rank[j] = k} along the axis for k < count; the last index where no element has that rank.

    Source:
        the second half of ONNX TopK, see `rank`.
    """

    name = "place_of_rank"
    Attrs = PlaceOfRankAttrs

    def infer(self, attrs: PlaceOfRankAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the ranks' shape with `count` on the axis, in int64."""
        (x,) = inputs
        if x.dtype != "int32" or not 0 <= attrs.axis < x.rank or not 0 < attrs.count <= x.shape[attrs.axis]:
            raise ValueError(f"the first {attrs.count} places along axis {attrs.axis} of {x}")
        return (TensorType("int64", replace_axis(x.shape, attrs.axis, attrs.count)),)

    def evaluate(self, attrs: PlaceOfRankAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Write the least index of each place to it."""
        ranks = np.moveaxis(inputs[0], attrs.axis, -1)
        rows = ranks.reshape(-1, ranks.shape[-1])
        index = np.full((len(rows), attrs.count), ranks.shape[-1] - 1, np.int64)
        for row, places in zip(index, rows, strict=True):
            (wanted,) = np.nonzero(places < attrs.count)
            np.minimum.at(row, places[wanted], wanted)
        index = index.reshape(*ranks.shape[:-1], attrs.count)
        return (np.ascontiguousarray(np.moveaxis(index, -1, attrs.axis)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit one pass over the axis, or a search for each place."""
        axis = node.attrs.axis
        extent = node.inputs[0].shape[axis]
        if context.place_of_rank(node):
            return

        def body(e: Any, i: Any, r: Any) -> Any:
            rank = e.load(0, *i[:axis], r[0], *i[axis + 1 :])
            return e.select(e.equal(e.cast(rank, "int64"), i[axis]), r[0], extent - 1)

        context.reduce(node, (extent,), body, "min", (extent - 1, "int64"), lambda e, acc, i: acc)
