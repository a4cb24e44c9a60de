"""Rows written, or combined, at computed places."""

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
from qcompile.ops.reshape import reshaped

REDUCTIONS = ("none", "add", "mul", "max", "min")
"""How an update meets what is there: it replaces it, or is combined with it."""


@dataclass(frozen=True)
class ScatterAttrs:
    """Attributes of scatter.

    Args:
        reduction: one of REDUCTIONS.
    """

    reduction: str = "none"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction '{self.reduction}' is none of {', '.join(REDUCTIONS)}")


def _elements(node: OnnxNode) -> Value:
    """Import ScatterElements: each element is a row, its number the offset in memory."""
    x, indices, updates = (node.value(k) for k in range(3))
    rank = len(x.shape)
    axis = axis_index(int(node.attr("axis", 0)), rank)
    fits = len(indices.shape) == rank and all(
        d <= e for a, (d, e) in enumerate(zip(indices.shape, x.shape, strict=True)) if a != axis
    )
    if not fits or indices.shape != updates.shape:
        node.fail(f"indices {indices.type} and updates {updates.type} do not fit {x.type}")
    if overwrites(node):
        return updates
    strides = _strides(x.shape)
    others = np.zeros(indices.shape, np.int64)
    for a, d in enumerate(indices.shape):
        if a != axis:
            steps = np.arange(d, dtype=np.int64) * strides[a]
            others += steps.reshape((-1,) + (1,) * (rank - 1 - a))
    wrapped = _wrapped(node, indices, x.shape[axis])
    stride = node.constant("stride", strides[axis], "int64")
    base = node.outputs[0]
    offset = node.add("mul", [wrapped, stride], name=f"{base}.step")
    offset = node.add("add", [offset, node.constant("others", others)], name=f"{base}.offset")
    return scattered(node, x, offset, updates, 1)


def overwrites(node: OnnxNode) -> bool:
    """Return whether a ScatterElements writes all elements, each to the only place that its index can name."""
    x, indices = node.value(0), node.value(1)
    axis = axis_index(int(node.attr("axis", 0)), len(x.shape))
    return x.shape[axis] == 1 and x.shape == indices.shape and str(node.attr("reduction", "none")) == "none"


def _nd(node: OnnxNode) -> Value:
    """Import ScatterND: the slices that a tuple of indices points at are the rows."""
    x, indices, updates = (node.value(k) for k in range(3))
    deep = indices.shape[-1] if indices.shape else 0
    if not 0 < deep <= len(x.shape) or updates.shape != (*indices.shape[:-1], *x.shape[deep:]):
        node.fail(f"indices {indices.type} and updates {updates.type} do not fit {x.type}")
    row = int(np.prod(x.shape[deep:]))
    extents = np.asarray(x.shape[:deep], np.int64)
    wrapped = _wrapped(node, indices, extents)
    factors = node.constant("strides", np.asarray(_strides(x.shape[:deep]), np.int64))
    base = node.outputs[0]
    steps = node.add("mul", [wrapped, factors], name=f"{base}.steps")
    axes = (len(indices.shape) - 1,)
    offset = node.add("reduce_sum", [steps], name=f"{base}.offset", axes=axes, keepdims=False)
    return scattered(node, x, offset, updates, row)


def _strides(shape: Sequence[int]) -> list[int]:
    return [int(np.prod(shape[a + 1 :])) for a in range(len(shape))]


def _wrapped(node: OnnxNode, indices: Value, extent: Any) -> Value:
    """Return indices as int64, those below 0 counted from the end."""
    base = node.outputs[0]
    if indices.dtype != "int64":
        indices = node.add("cast", [indices], name=f"{base}.indices", dtype="int64")
    zero = node.constant("zero", 0, "int64")
    negative = node.add("less", [indices, zero], name=f"{base}.negative")
    shifted = node.add("add", [indices, node.constant("extent", extent, "int64")], name=f"{base}.shifted")
    return node.add("where", [negative, shifted, indices], name=f"{base}.wrapped")


def scattered(node: OnnxNode, x: Value, offset: Value, updates: Value, row: int) -> Value:
    """Return x with rows written at offsets; known offsets make it a gather.

    Args:
        node: the ONNX node that asks for it.
        x: any tensor.
        offset: row numbers, int64.
        updates: as many rows as there are numbers.
        row: elements of a row.
    """
    base, count, rows = node.outputs[0], x.type.size // row, offset.type.size
    flat = reshaped(node, x, (count, row), f"{base}.rows")
    numbers = reshaped(node, offset, (rows,), f"{base}.numbers")
    parts = reshaped(node, updates, (rows, row), f"{base}.updates")
    reduction = str(node.attr("reduction", "none"))
    if reduction == "none" and numbers.data is not None and not (flat.is_constant and parts.is_constant):
        source = np.arange(count, dtype=np.int64)
        known = numbers.data
        if ((known < 0) | (known >= count)).any():
            node.fail("an index is out of range")
        source[known] = np.arange(rows) + count
        joined = node.add("concat", [flat, parts], name=f"{base}.joined", axis=0)
        y = node.add("gather", [joined, node.constant("source", source)], name=f"{base}.flat", axis=0)
    else:
        y = node.add("scatter", [flat, numbers, parts], name=f"{base}.flat", reduction=reduction)
    return reshaped(node, y, x.shape, base)


class Scatter(OpDef):
    """y = x with y[numbers[m]] = updates[m], or combined with it, for m in order.

    Operands: x [N, S], numbers [M] int64, updates [M, S]. Rows whose number is out of range are left out, so that no
    input can make a kernel write elsewhere.

    Source:
        ONNX ScatterElements and ScatterND on rows.
    """

    name = "scatter"
    Attrs = ScatterAttrs
    overwrites = True
    onnx: ClassVar[dict[str, Any]] = {"Scatter": _elements, "ScatterElements": _elements, "ScatterND": _nd}

    def infer(self, attrs: ScatterAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of x."""
        x, numbers, updates = inputs
        fits = x.rank == 2 and numbers.rank == 1 and updates == x.with_shape((*numbers.shape, *x.shape[1:]))
        if not fits or numbers.dtype != "int64":
            raise ValueError(f"rows {updates} at {numbers} of {x}")
        return (x,)

    def evaluate(self, attrs: ScatterAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Write row after row into a copy of x."""
        return self.evaluate_over(attrs, (inputs[0].copy(), *inputs[1:]))

    def evaluate_over(self, attrs: ScatterAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Write row after row into x itself: a loop that fills a tensor takes no copy of it at each step."""
        y, numbers, updates = inputs
        inside = (numbers >= 0) & (numbers < y.shape[0])
        at, rows = numbers[inside], updates[inside]
        if attrs.reduction == "none":
            for number, row in zip(at, rows, strict=True):
                y[number] = row
        else:
            combine = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[attrs.reduction]
            combine.at(y, at, rows)
        return (y,)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy, then a sequential loop over the updates."""
        context.scatter(node)
