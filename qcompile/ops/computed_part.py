"""Parts of known extents that begin where a run computes, such as the row that a decoder's last answer counts.

Source:
    ONNX Slice; `lax.dynamic_slice` of JAX, whose exporters write the ends as starts plus extents.
"""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.layout import axis_indices
from qcompile.ops.onnx_node import OnnxNode


def computed_part(node: OnnxNode, x: Value) -> Value | None:
    """Return rows from a computed start on, as many as its end lies behind it; None where that is not known.

    A part that would leave the axis is moved back into it, as JAX does: nothing can say then how much of it there is.

    Args:
        node: a Slice whose bounds are computed.
        x: what it takes a part of.
    """
    starts = node.value(1)
    sizes = _behind(starts, node.value(2))
    touched = node.counted is not None and node.counted.touches([x, starts])
    if sizes is None or touched or starts.dtype not in ("int32", "int64"):
        return None
    given = node.array_or_none(3, "axes")
    axes = list(range(sizes.size)) if given is None else axis_indices(given, len(x.shape))
    steps = node.array_or_none(4, "steps")
    if steps is not None and (steps != 1).any():
        node.fail("its bounds are computed at run time, and its step is not 1")
    for place, (axis, size) in enumerate(zip(axes, sizes.tolist(), strict=True)):
        if node.open is not None and node.open.extent(x, axis) is not None:
            node.fail(f"it begins at a computed place of axis {axis}, which is open")
        if not 0 < size <= x.shape[axis]:
            node.fail(f"{size} elements of axis {axis} of {x.type}")
        if size < x.shape[axis]:
            x = _rows(node, x, starts, place, axis, size)
    return x


def _behind(starts: Value, ends: Value) -> np.ndarray | None:
    """Return by how much the ends lie behind the starts, None where the graph does not add a constant to them."""
    maker = ends.producer
    if maker is None or maker.op.name != "add" or starts not in maker.inputs:
        return None
    other = maker.inputs[1 - maker.inputs.index(starts)]
    if other.data is None or len(starts.shape) != 1:
        return None
    return np.asarray(np.broadcast_to(other.data, starts.shape))


def _rows(node: OnnxNode, x: Value, starts: Value, place: int, axis: int, size: int) -> Value:
    """Return `size` rows of an axis from the start at a place of `starts` on."""
    base, extent = f"{node.outputs[0]}.axis{axis}", x.shape[axis]

    def number(name: str, value: int) -> Value:
        return node.constant(f"{name}{axis}", np.asarray([value]), "int64")

    start = starts if starts.dtype == "int64" else node.add("cast", [starts], f"{base}.starts", dtype="int64")
    if starts.type.size > 1:
        start = node.add("slice", [start], f"{base}.start", starts=(place,), steps=(1,), sizes=(1,))
    negative = node.add("less", [start, number("zero", 0)], f"{base}.negative")
    behind = node.add("add", [start, number("extent", extent)], f"{base}.behind")
    start = node.add("where", [negative, behind, start], f"{base}.first")
    start = node.add("minimum", [start, number("last", extent - size)], f"{base}.least")
    start = node.add("maximum", [start, number("zero", 0)], f"{base}.inside")
    if size > 1:
        steps = node.constant(f"steps{axis}", np.arange(size), "int64")
        start = node.add("add", [start, steps], f"{base}.places")
    return node.add("gather", [x, start], f"{base}.part", axis=axis)
