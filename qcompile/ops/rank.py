"""The place that each element takes among those of its axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef
from qcompile.ir.types import TensorType
from qcompile.ops.layout import axis_index
from qcompile.ops.onnx_node import OnnxNode

_FEW = 256
"""Elements of an axis up to which to compare all pairs takes no longer than to sort."""


@dataclass(frozen=True)
class RankAttrs:
    """Attributes of rank.

    Args:
        axis: the axis to sort along, not negative.
        largest: whether place 0 is the largest element's, else the smallest's.
    """

    axis: int = 0
    largest: bool = True


def _top_k(node: OnnxNode) -> tuple[Value, Value]:
    """Import TopK: every element's place, the index that has each of the first k, the values there."""
    x = node.value(0)
    count = int(node.array(1, "k").reshape(-1)[0]) if node.opset >= 10 else int(node.attr("k"))
    axis = axis_index(int(node.attr("axis", -1)), len(x.shape))
    if not 0 < count <= x.shape[axis]:
        node.fail(f"the first {count} of {x.shape[axis]} elements")
    base = node.outputs[0] or node.name
    place = node.add("rank", [x], name=f"{base}.rank", axis=axis, largest=bool(node.attr("largest", 1)))
    name = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else f"{base}.index"
    index = node.add("place_of_rank", [place], name=name, axis=axis, count=count)
    return node.add("gather_elements", [x, index], name=base, axis=axis), index


class Rank(OpDef):
    """y[i] = the number of elements along the axis that come before x[i]; of equal ones the first comes first.

    Where the axis is short, loops compare every pair, in vectors; else runs are merged. What is not a number is
    neither before nor equal to another.

    Source:
        ONNX TopK, with `place_of_rank` and `gather_elements`.
    """

    name = "rank"
    Attrs = RankAttrs
    onnx: ClassVar[dict[str, Any]] = {"TopK": _top_k}

    def infer(self, attrs: RankAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the operand's shape in int32."""
        (x,) = inputs
        if not 0 <= attrs.axis < x.rank:
            raise ValueError(f"axis {attrs.axis} of {x}")
        return (x.with_dtype("int32"),)

    def evaluate(self, attrs: RankAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Sort, a row at a time."""
        x = np.moveaxis(inputs[0], attrs.axis, -1)
        rows = x.reshape(-1, x.shape[-1])
        places = np.empty(rows.shape, np.int32)
        for row, place in zip(rows, places, strict=True):
            if (row != row).any():
                place[:] = _compared(row, attrs.largest)
                continue
            # The stable order of the reversed row, reversed, falls, and keeps equal ones as they were.
            order = np.argsort(row[::-1], kind="stable")[::-1] if attrs.largest else np.argsort(row, kind="stable")
            place[row.size - 1 - order if attrs.largest else order] = np.arange(row.size)
        return (np.ascontiguousarray(np.moveaxis(places.reshape(x.shape), -1, attrs.axis)),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a sort, or a count over the axis."""
        axis, extent = node.attrs.axis, node.inputs[0].shape[node.attrs.axis]
        if extent > _FEW and context.rank(node):
            return

        def body(e: Any, i: Any, r: Any) -> Any:
            own, other = e.load(0, *i), e.load(0, *i[:axis], r[0], *i[axis + 1 :])
            before = own < other if node.attrs.largest else other < own
            tied = e.and_(e.equal(own, other), r[0] < i[axis])
            return e.select(e.or_(before, tied), e.i32(1), e.i32(0))

        context.reduce(node, (extent,), body, "sum", (0, "int32"), lambda e, acc, i: acc)


def _compared(row: Array, largest: bool) -> Array:
    """Return the places in a row with what is not a number, each compared with all."""
    earlier = np.arange(row.size)
    found = np.empty(row.size, np.int32)
    for place, own in enumerate(row):
        before = (row > own) if largest else (row < own)
        found[place] = (before | ((row == own) & (earlier < place))).sum()
    return found
