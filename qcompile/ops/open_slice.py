"""A part of a tensor whose place on an axis follows from an open extent: the last elements, all in reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, Quantization
from qcompile.ir.sized import Sized
from qcompile.ir.symbol import Extent
from qcompile.ir.types import TensorType
from qcompile.ops.layout import replace_axis


@dataclass(frozen=True)
class OpenSliceAttrs:
    """Attributes of open_slice.

    Args:
        symbol: the open extent that start and size follow from.
        axis: counted from the front.
        starts: index of the first element, for each value of the symbol from the least on.
        sizes: extent of the result, likewise; the last is the largest.
        step: distance of elements; negative counts backwards.
        at: which value holds, where the graph has one size; the largest by default.
        entry: which number of operand 1 is the start, where there is one.
    """

    symbol: str
    axis: int
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    step: int = 1
    at: int = -1
    entry: int = 0

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.sizes) or self.step == 0 or min(self.sizes) < 0:
            raise ValueError(f"starts {self.starts}, sizes {self.sizes}, step {self.step}")


class OpenSlice(Sized):
    """y[…, i, …] = x[…, start + i·step, …] with start = starts[at], or extents[entry].

    Operands: x, and in the graph's final form the actual extents (int32). What lies past the actual end of the
    result is of no meaning.
    """

    name = "open_slice"
    Attrs = OpenSliceAttrs
    activations = (0,)
    integer = Quantization.SHARED

    def read_extents(self, attrs: OpenSliceAttrs) -> tuple[Extent, ...]:
        """Return the start, as if it were an extent."""
        return (Extent(attrs.symbol, attrs.starts),)

    def infer(self, attrs: OpenSliceAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x = inputs[0]
        if not 0 <= attrs.axis < x.rank:
            raise ValueError(f"axis {attrs.axis} of {x}")
        if len(inputs) > 1 and (inputs[1].dtype != "int32" or not 0 <= attrs.entry < inputs[1].size):
            raise ValueError(f"entry {attrs.entry} of {inputs[1]}")
        size, start = attrs.sizes[attrs.at], attrs.starts[attrs.at]
        last = start + (size - 1) * attrs.step
        if size and not (0 <= start < x.shape[attrs.axis] and 0 <= last < x.shape[attrs.axis]):
            raise ValueError(f"elements {start} to {last} of axis {attrs.axis} of {x}")
        return (x.with_shape(replace_axis(x.shape, attrs.axis, size)),)

    def evaluate(self, attrs: OpenSliceAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return the elements taken."""
        x = inputs[0]
        start = int(inputs[1].reshape(-1)[attrs.entry]) if len(inputs) > 1 else attrs.starts[attrs.at]
        places = start + attrs.step * np.arange(attrs.sizes[attrs.at])
        return (np.take(x, np.clip(places, 0, max(x.shape[attrs.axis] - 1, 0)), attrs.axis),)

    def lower(self, node: Node, context: Any) -> None:
        """Emit a copy from a computed place."""
        attrs, last = node.attrs, node.inputs[0].shape[node.attrs.axis] - 1

        def element(e: Any, i: Any) -> Any:
            start = e.cast(e.load(1, attrs.entry), "int64")
            offset = i[attrs.axis] if attrs.step == 1 else i[attrs.axis] * attrs.step
            place = e.min(e.max(start + offset, 0), last)
            return e.load(0, *i[: attrs.axis], place, *i[attrs.axis + 1 :])

        context.map(node, element)
