"""Another resolution of an image of open height or width, where coordinates depend on the actual extents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcompile.ir.graph import Node
from qcompile.ir.opdef import Array, Quantization
from qcompile.ir.sized import Sized
from qcompile.ir.symbol import Extent
from qcompile.ir.types import TensorType
from qcompile.ops.interpolation import Axis, fixed_point
from qcompile.ops.resize import ResizeAttrs, axis_taps, linear_multiplier, mixed, mixed_integer
from qcompile.ops.spatial import from_nhwc, spatial_axes, to_nhwc, with_spatial


@dataclass(frozen=True)
class OpenResizeAttrs:
    """Attributes of open_resize; pairs are of height and width.

    Args:
        symbols: the open extent that each axis follows; "" where it is fixed.
        lengths: extents of the operand, for each value of the symbol from the least on; one where it is fixed.
        sizes: extents of the result, likewise; the last is the largest.
        scales: ratio result to operand, likewise.
        mode: as for resize, and so are the next five.
        at: which entry holds, where the graph has one size; the largest by default.
        entries: which numbers of operand 1 are the places in the tables, where there is one.
    """

    symbols: tuple[str, str]
    lengths: tuple[tuple[int, ...], tuple[int, ...]]
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    scales: tuple[tuple[float, ...], tuple[float, ...]]
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic_coeff: float = -0.75
    exclude_outside: bool = False
    layout: str = "NCHW"
    at: tuple[int, int] = (-1, -1)
    entries: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for tables in zip(self.lengths, self.sizes, self.scales, strict=True):
            if len({len(table) for table in tables}) != 1:
                raise ValueError(f"tables of {[len(table) for table in tables]} entries")

    def axis(self, k: int, at: int) -> Axis:
        """Return how one axis is resized at one size.

        Args:
            k: 0 for height, 1 for width.
            at: entry of the tables.
        """
        return Axis(self.lengths[k][at], self.sizes[k][at], self.scales[k][at], self.coordinates)

    def plain(self) -> ResizeAttrs:
        """Return the attributes of resize at the one size."""
        height, width = (self.axis(k, self.at[k]) for k in (0, 1))
        more = (self.mode, self.coordinates, self.rounding, self.cubic_coeff, self.exclude_outside, self.layout)
        return ResizeAttrs((height.out, width.out), (height.scale, width.scale), *more)

    def taps(self, k: int, at: int) -> tuple[Array, Array]:
        """Return indices and shares of one axis at one size, filled up to its largest: [out, taps]."""
        indices, shares = axis_taps(self.plain(), self.axis(k, at))
        rest = ((0, max(self.sizes[k]) - len(indices)), (0, 0))
        return np.pad(indices, rest), np.pad(shares, rest)


class OpenResize(Sized):
    """y = resize(x) with the extents and scales of the actual size.

    Operands: x, and in the graph's final form the actual extents (int32). Integer form: that of resize.
    """

    name = "open_resize"
    Attrs = OpenResizeAttrs
    activations = (0,)
    integer = Quantization.SHARED

    def at_sizes(self, attrs: OpenResizeAttrs, positions: Mapping[str, int]) -> OpenResizeAttrs:
        """Return the attributes where each symbol has one of its values."""
        height, width = (positions.get(symbol, -1) for symbol in attrs.symbols)
        return replace(attrs, at=(height, width))

    def read_extents(self, attrs: OpenResizeAttrs) -> tuple[Extent, ...]:
        """Return the places in the tables, as if they were extents."""
        return tuple(Extent(s, tuple(range(len(t)))) for s, t in zip(attrs.symbols, attrs.sizes, strict=True) if s)

    def with_entries(self, attrs: OpenResizeAttrs, entries: Sequence[int]) -> OpenResizeAttrs:
        """Return the attributes of the final form."""
        left = iter(entries)
        height, width = (next(left) if symbol else 0 for symbol in attrs.symbols)
        return replace(attrs, entries=(height, width))

    def infer(self, attrs: OpenResizeAttrs, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the result."""
        x = inputs[0]
        if x.rank != 4 or (len(inputs) > 1 and inputs[1].dtype != "int32"):
            raise ValueError(f"resize of {', '.join(map(str, inputs))}")
        size = attrs.plain().size
        return (x.with_shape(with_spatial(x.shape, attrs.layout, size, x.shape[1 if attrs.layout == "NCHW" else 3])),)

    def evaluate(self, attrs: OpenResizeAttrs, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Interpolate in the precision of the operand."""
        return (from_nhwc(mixed(attrs.plain(), to_nhwc(inputs[0], attrs.layout), _pair(attrs, inputs)), attrs.layout),)

    def evaluate_integer(self, node: Node, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Copy, or interpolate in fixed point."""
        attrs: OpenResizeAttrs = node.attrs
        if attrs.mode == "nearest":
            return self.evaluate(attrs, inputs)
        x, taps = to_nhwc(inputs[0], attrs.layout), _pair(attrs, inputs)
        return (from_nhwc(mixed_integer(node, x, taps), attrs.layout),)

    def integer_obstacle(self, node: Node) -> str | None:
        """Refuse cubic interpolation, whose result leaves the range of its operand."""
        return "cubic interpolation has no integer form" if node.attrs.mode == "cubic" else None

    def int16_obstacle(self, node: Node) -> str | None:
        """Refuse linear interpolation, whose fixed-point sums would leave int32."""
        return None if node.attrs.mode == "nearest" else "linear interpolation has no form on 16-bit activations"

    def only_moves(self, node: Node) -> bool:
        """Return whether it copies: what linear interpolation mixes is rounded."""
        return bool(node.attrs.mode == "nearest")

    def lower(self, node: Node, context: Any) -> None:
        """Emit one gather per tap, with tables of indices and shares for every size."""
        attrs: OpenResizeAttrs = node.attrs
        axes, integer = spatial_axes(attrs.layout), node.is_integer
        indices, shares = [], []
        for k in (0, 1):
            found = [attrs.taps(k, at) for at in range(len(attrs.sizes[k]))]
            count = found[0][0].shape[1]
            fixed = [fixed_point(s) if integer and count > 1 else s for _, s in found]
            indices.append([context.constant(np.stack([i[:, t] for i, _ in found])) for t in range(count)])
            shares.append([context.constant(np.stack([s[:, t] for s in fixed])) for t in range(count)])

        def place(e: Any, k: int) -> Any:
            return e.cast(e.load(1, attrs.entries[k]), "int64") if attrs.symbols[k] else 0

        def element(e: Any, i: Any) -> Any:
            at = [(place(e, k), i[axes[k]]) for k in (0, 1)]
            return _sum(e, node, i, [[e.at(c, *at[k]) for c in indices[k]] for k in (0, 1)],
                        [[e.at(c, *at[k]) for c in shares[k]] for k in (0, 1)])  # fmt: skip

        context.map(node, element)


def _sum(e: Any, node: Node, i: Any, indices: list[list[Any]], shares: list[list[Any]]) -> Any:
    """Return the mixture of the elements at some rows and columns."""
    axes, total = spatial_axes(node.attrs.layout), None
    for row, vertical in zip(indices[0], shares[0], strict=True):
        for column, horizontal in zip(indices[1], shares[1], strict=True):
            index = list(i)
            index[axes[0]], index[axes[1]] = row, column
            if node.attrs.mode == "nearest":
                return e.load(0, *index)
            seen = e.centred(0, *index) if node.is_integer else e.load(0, *index)
            part = seen * (vertical * horizontal)
            total = part if total is None else total + part
    if not node.is_integer:
        return total
    x, y = node.inputs[0].qparams, node.output.qparams
    assert x is not None
    assert y is not None
    return e.requantize(total, float(linear_multiplier(x.scalar_scale, y.scalar_scale)))


def _pair(attrs: OpenResizeAttrs, inputs: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Return indices and shares of height and width: those of the one size, or of the actual one, filled up."""
    if len(inputs) == 1:
        plain = attrs.plain()
        return [axis_taps(plain, attrs.axis(k, attrs.at[k])) for k in (0, 1)]
    extents = inputs[1].reshape(-1)
    return [attrs.taps(k, int(extents[attrs.entries[k]]) if attrs.symbols[k] else 0) for k in (0, 1)]
