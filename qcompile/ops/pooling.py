"""What max_pool and avg_pool share: attributes, geometry, and windows over an NHWC array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ir.opdef import Array
from qcompile.ir.types import TensorType
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.spatial import (
    Pads,
    plane,
    spatial_axes,
    window_attribute,
    window_extent,
    window_pads,
    window_slice,
    windowed,
    with_spatial,
)


@dataclass(frozen=True)
class PoolAttrs:
    """Attributes of a pooling window.

    Args:
        kernel: vertical and horizontal extent, taps.
        strides: vertical and horizontal step, elements.
        pads: elements added at top, left, bottom, right.
        dilations: distance of taps, elements.
        ceil_mode: whether a last, partial window counts.
        layout: "NCHW" or "NHWC".
    """

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout '{self.layout}' is neither NCHW nor NHWC")
        if min(*self.kernel, *self.strides, *self.dilations) < 1 or min(self.pads) < 0:
            geometry = f"kernel {self.kernel}, strides {self.strides}, dilations {self.dilations}"
            raise ValueError(f"{geometry}, pads {self.pads}")


def pooled(node: OnnxNode, op: str, operands: Sequence[Value], **extra: Any) -> Value:
    """Append the pooling that an ONNX node stands for.

    Args:
        node: MaxPool or AveragePool, over one or two axes.
        op: name of the IR operation.
        operands: of it, the pooled tensor first; with as many axes as the node's.
        extra: fields of its Attrs beyond those of PoolAttrs.
    """
    x = operands[0]
    axes = len(x.shape) - 2
    kernel = tuple(node.attr("kernel_shape", ()))
    if axes not in (1, 2):
        node.fail(f"{axes}-D pooling of {x.type}; only 1-D and 2-D pooling is supported")
    if len(kernel) != axes:
        node.fail(f"kernel_shape {list(kernel)} of a {axes}-D pooling")
    strides = window_attribute(node, "strides", axes)
    dilations = window_attribute(node, "dilations", axes)
    return windowed(
        node,
        op,
        [plane(node, value, f"plane{k or ''}") for k, value in enumerate(operands)],
        kernel=(1, *kernel)[-2:],
        strides=(1, *strides)[-2:],
        pads=window_pads(node, kernel, strides, dilations, x.shape[2:]),
        dilations=(1, *dilations)[-2:],
        ceil_mode=bool(node.attr("ceil_mode", 0)),
        **extra,
    )


def pool_extents(attrs: PoolAttrs, shape: Sequence[int]) -> tuple[int, int]:
    """Return the spatial extents of the result.

    Args:
        attrs: the window.
        shape: of the operand, in `attrs.layout`.

    Raises:
        ValueError: a window does not fit, or lies in the padding alone.
    """
    extents = []
    for axis, size in enumerate(shape[a] for a in spatial_axes(attrs.layout)):
        count = window_extent(
            size,
            attrs.kernel[axis],
            attrs.strides[axis],
            attrs.dilations[axis],
            (attrs.pads[axis], attrs.pads[axis + 2]),
            ceil=attrs.ceil_mode,
        )
        if not tap_counts(attrs, axis, count, 0, size).all():
            raise ValueError(f"pads {attrs.pads} are so large that a window of {attrs.kernel} sees only padding")
        extents.append(count)
    return extents[0], extents[1]


def tap_counts(attrs: PoolAttrs, axis: int, count: int, low: int, high: int) -> Array:
    """Return how many taps of each window along one axis lie in a range.

    Args:
        attrs: the window.
        axis: 0 for height, 1 for width.
        count: windows.
        low: first index of the range.
        high: index past its end.
    """
    starts = np.arange(count) * attrs.strides[axis] - attrs.pads[axis]
    # Taps are starts + k·dilation: the first k at or past each bound, in closed form, for windows of any extent.
    first, end = (np.clip(-((starts - bound) // attrs.dilations[axis]), 0, attrs.kernel[axis]) for bound in (low, high))
    return np.asarray(end - first)


def window_counts(attrs: PoolAttrs, shape: Sequence[int], out: tuple[int, int], *, with_pads: bool) -> Array:
    """Return how many taps of each window lie in the input.

    Args:
        attrs: the window.
        shape: of the operand, in `attrs.layout`.
        out: spatial extents of the result.
        with_pads: count the padding too (never what lies beyond it).

    Returns:
        int64 [H_out, W_out].
    """
    counts = []
    for axis, size in enumerate(shape[a] for a in spatial_axes(attrs.layout)):
        before, after = (attrs.pads[axis], attrs.pads[axis + 2]) if with_pads else (0, 0)
        counts.append(tap_counts(attrs, axis, out[axis], -before, size + after))
    return np.asarray(counts[0][:, None] * counts[1][None, :])


def pool_type(attrs: PoolAttrs, inputs: Sequence[TensorType]) -> TensorType:
    """Return the type of a pooling's result.

    Raises:
        ValueError: the operand is not 4-D or the window does not fit.
    """
    x = inputs[0]
    if len(inputs) != 1 or x.rank != 4:
        raise ValueError(f"pooling needs one 4-D operand, got {', '.join(map(str, inputs))}")
    channels = x.shape[1] if attrs.layout == "NCHW" else x.shape[3]
    return x.with_shape(with_spatial(x.shape, attrs.layout, pool_extents(attrs, x.shape), channels))


def pool_windows(x: Array, attrs: PoolAttrs, out: tuple[int, int], fill: float) -> Iterator[Array]:
    """Yield, tap by tap, what all windows see of an NHWC array.

    Args:
        x: NHWC.
        attrs: the window.
        out: spatial extents of the result.
        fill: value of padding, and of what a partial last window reaches beyond it.
    """
    widths = []
    for axis in (0, 1):
        reach = (out[axis] - 1) * attrs.strides[axis] + (attrs.kernel[axis] - 1) * attrs.dilations[axis] + 1
        before = attrs.pads[axis]
        widths.append((before, max(0, reach - before - x.shape[1 + axis])))
    if any(any(w) for w in widths):
        x = np.pad(x, ((0, 0), *widths, (0, 0)), constant_values=x.dtype.type(fill))
    for i in range(attrs.kernel[0]):
        for j in range(attrs.kernel[1]):
            yield window_slice(x, (i, j), attrs.strides, attrs.dilations, out)


def tap_positions(attrs: PoolAttrs, i: Any, r: Sequence[Any]) -> list[Any]:
    """Return the input row and column that a tap of an output element sees, as index expressions.

    Args:
        attrs: the window.
        i: output indices, in `attrs.layout`.
        r: tap indices, vertical and horizontal.
    """
    return [
        i[axis] * attrs.strides[k] + r[k] * attrs.dilations[k] - attrs.pads[k]
        for k, axis in enumerate(spatial_axes(attrs.layout))
    ]


def with_positions(attrs: PoolAttrs, i: Any, positions: Sequence[Any]) -> tuple[Any, ...]:
    """Return the output indices with the spatial ones replaced."""
    index = list(i)
    for axis, position in zip(spatial_axes(attrs.layout), positions, strict=True):
        index[axis] = position
    return tuple(index)
