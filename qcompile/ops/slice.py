"""A regular part of a tensor: on each axis a start, a step and a count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.opdef import Array, OpDef, Quantization
from qcompile.ir.types import TensorType
from qcompile.ops.computed_part import computed_part
from qcompile.ops.layout import axis_indices
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.open_part import open_sliced
from qcompile.ops.sliced import sliced


@dataclass(frozen=True)
class SliceAttrs:
    """Attributes of slice, one entry per axis.

    Args:
        starts: index of the first element.
        steps: distance of elements; negative counts backwards.
        sizes: extents of the result, elements.
    """

    starts: tuple[int, ...]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.starts) == len(self.steps) == len(self.sizes):
            raise ValueError("starts, steps and sizes must have one entry per axis")
        if 0 in self.steps:
            raise ValueError("a slice cannot have a step of 0")

    @cached_property
    def index(self) -> tuple[slice, ...]:
        """What takes the elements out of an array; kept, since loops take them at each step."""
        index = []
        for start, step, size in zip(self.starts, self.steps, self.sizes, strict=True):
            stop = start + size * step
            # A stop before the first element cannot be written as a number: −1 would count from the end.
            index.append(slice(start, None if stop < 0 else stop, step))
        return tuple(index)


def _from_onnx(node: OnnxNode) -> Value:
    x = node.value(0)
    if "starts" in node.attributes:
        starts, ends, axes = node.attributes["starts"], node.attributes["ends"], node.attr("axes")
        steps = None
    elif not (node.value(1).is_constant and node.value(2).is_constant):
        return _cut_at_run_time(node, x)
    else:
        starts, ends = node.array(1, "starts").tolist(), node.array(2, "ends").tolist()
        axes = node.array_or_none(3, "axes")
        steps = node.array_or_none(4, "steps")
    indices = list(range(len(starts))) if axes is None else axis_indices(axes, len(x.shape))
    if len(indices) > len(x.shape):
        node.fail(f"{len(starts)} starts for {x.type}")
    strides = [1] * len(starts) if steps is None else steps.tolist()
    if 0 in strides:
        node.fail("a slice cannot have a step of 0")
    ranges = {a: slice(s, e, k) for a, s, e, k in zip(indices, starts, ends, strides, strict=True)}
    if node.open is not None:
        return open_sliced(node, x, ranges, [node.inputs[k] if node.has(k) else None for k in (1, 2)])
    return sliced(node, x, ranges)


def _cut_at_run_time(node: OnnxNode, x: Value) -> Value:
    """Return a slice whose bounds a run computes.

    Rows that an iteration takes, as many as are known from a computed place on, or so many first ones of an axis.
    """
    found: Value | None = node.loop.part(node) if node.loop is not None else None
    found = found or computed_part(node, x)
    if found is not None:
        return found
    starts, end = node.array(1, "starts"), node.value(2)
    axes, steps = node.array_or_none(3, "axes"), node.array_or_none(4, "steps")
    if starts.size != 1 or starts.any() or node.counted is None or not (steps is None or steps.item() == 1):
        node.array(2, "ends")
    axis = 0 if axes is None else axis_indices(axes, len(x.shape))[0]
    first: Value = node.counted.first(node, x, axis, end)
    return first


class Slice(OpDef):
    """y[i, j, …] = x[start_0 + i·step_0, start_1 + j·step_1, …].

    Source:
        ONNX Slice.
    """

    name = "slice"
    Attrs = SliceAttrs
    selects = True
    integer = Quantization.SHARED
    onnx: ClassVar[dict[str, Any]] = {"Slice": _from_onnx}

    def infer(self, attrs: SliceAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x = inputs[0]
        if len(attrs.sizes) != x.rank:
            raise ValueError(f"a slice of {len(attrs.sizes)} axes does not fit {x}")
        for extent, start, step, size in zip(x.shape, attrs.starts, attrs.steps, attrs.sizes, strict=True):
            last = start + (size - 1) * step
            if size and not (0 <= start < extent and 0 <= last < extent):
                raise ValueError(f"a slice from {start} to {last} leaves an axis of {extent} elements")
        return (x.with_shape(attrs.sizes),)

    def evaluate(self, attrs: SliceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements taken."""
        return (np.ascontiguousarray(inputs[0][attrs.index]).reshape(attrs.sizes),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy."""
        attrs = node.attrs
        if context.window(node):
            return

        def element(e: Any, i: Any) -> Any:
            return e.load(0, *(_position(i[a], attrs.starts[a], attrs.steps[a]) for a in range(len(i))))

        context.map(node, element)


def _position(index: Any, start: int, step: int) -> Any:
    scaled = index if step == 1 else index * step
    return scaled + start if start else scaled
