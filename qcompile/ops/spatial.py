"""Windows over two spatial axes: shapes, padding and ONNX's ways to say them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode

Array = npt.NDArray[Any]
Pads = tuple[int, int, int, int]
SAME_MODES = ("SAME_UPPER", "SAME_LOWER")
"""Values of auto_pad that ask for as many windows as there are strides in the input."""


def window_extent(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], *, ceil: bool = False
) -> int:
    """Return how many windows fit along one axis.

    Formula:
        floor((size + pad_begin + pad_end − dilation·(kernel − 1) − 1) / stride) + 1; with ceil, the last window
        must start inside the input or its leading padding

    Args:
        size: input extent, elements.
        kernel: window extent, taps.
        stride: step, elements.
        dilation: distance of taps, elements.
        pads: elements added before and after.
        ceil: round up.

    Raises:
        ValueError: the window is larger than the padded input.

    Source:
        ONNX Conv, MaxPool, AveragePool.
    """
    span = size + sum(pads) - dilation * (kernel - 1) - 1
    if span < 0:
        raise ValueError(f"a window of {dilation * (kernel - 1) + 1} does not fit an input of {size} padded by {pads}")
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + pads[0]:
        count -= 1
    return count


def window_pads(
    node: OnnxNode, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], spatial: Sequence[int]
) -> Pads:
    """Return (top, left, bottom, right) padding from ONNX `pads` or `auto_pad`, of one or two axes.

    Args:
        node: carries the attributes.
        kernel: window extents, taps.
        strides: steps, elements.
        dilations: tap distances, elements.
        spatial: input extents, elements.
    """
    mode = node.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        begin_end = list(node.attr("pads", [0] * (2 * len(kernel))))
        if len(begin_end) != 2 * len(kernel) or any(p < 0 for p in begin_end):
            node.fail(f"pads {begin_end}; they must be {2 * len(kernel)} numbers, none negative")
        return _plane_pads(begin_end[: len(kernel)], begin_end[len(kernel) :])
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode not in SAME_MODES:
        node.fail(f"unknown auto_pad '{mode}'")
    windows = zip(spatial, kernel, strides, dilations, strict=True)
    pairs = [same_pads(size, taps, stride, dilation, mode) for size, taps, stride, dilation in windows]
    return _plane_pads([begin for begin, _ in pairs], [end for _, end in pairs])


def same_pads(size: int, kernel: int, stride: int, dilation: int, mode: str) -> tuple[int, int]:
    """Return the padding before and after along one axis that makes ⌈size / stride⌉ windows fit.

    Args:
        size: input extent, elements.
        kernel: window extent, taps.
        stride: step, elements.
        dilation: distance of taps, elements.
        mode: one of SAME_MODES: SAME_UPPER puts an odd element after, SAME_LOWER before.

    Source:
        ONNX Conv, auto_pad.
    """
    total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
    small, large = total // 2, total - total // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _plane_pads(begins: Sequence[int], ends: Sequence[int]) -> Pads:
    """Return (top, left, bottom, right); a single axis is the horizontal one."""
    if len(begins) == 1:
        return (0, begins[0], 0, ends[0])
    return (begins[0], begins[1], ends[0], ends[1])


def window_attribute(node: OnnxNode, name: str, axes: int) -> tuple[int, ...]:
    """Return strides or dilations: one per spatial axis, 1 by default.

    Args:
        node: the ONNX node under conversion.
        name: of the attribute.
        axes: how many spatial axes there are.
    """
    values = tuple(int(v) for v in node.attr(name, [1] * axes))
    if len(values) != axes:
        node.fail(f"{name} {list(values)} for {axes} spatial axes")
    return values


def plane(node: OnnxNode, value: Value, what: str) -> Value:
    """Return a tensor [N, C, W] as [N, C, 1, W], and any other as it is.

    Args:
        node: the ONNX node under conversion.
        value: an activation or a convolution's weight.
        what: suffix of the new value's name.
    """
    if len(value.shape) != 3:
        return value
    n, c, w = value.shape
    return node.add("reshape", [value], name=f"{node.outputs[0]}.{what}", shape=(n, c, 1, w))


def windowed(node: OnnxNode, op: str, operands: Sequence[Value], **attrs: Any) -> Value:
    """Append a 2-D window operation and return its result with as many axes as the ONNX node's input.

    Args:
        node: the ONNX node under conversion.
        op: name of the IR operation.
        operands: the activation already passed through `plane`.
        attrs: fields of its Attrs.
    """
    if len(node.value(0).shape) == 4:
        return node.add(op, operands, **attrs)
    y = node.add(op, operands, name=f"{node.outputs[0]}.result", **attrs)
    n, c, _, w = y.shape
    return node.add("reshape", [y], shape=(n, c, w))


def window_slice(
    x: Array, tap: tuple[int, int], strides: Sequence[int], dilations: Sequence[int], out: tuple[int, int]
) -> Array:
    """Return the elements that one tap of the window sees, over all output positions.

    Args:
        x: padded array [N, H, W, C].
        tap: row and column within the window.
        strides: vertical and horizontal step of the window, elements.
        dilations: distance of taps, elements.
        out: height and width of the result.
    """
    top, left = tap[0] * dilations[0], tap[1] * dilations[1]
    return x[
        :,
        top : top + (out[0] - 1) * strides[0] + 1 : strides[0],
        left : left + (out[1] - 1) * strides[1] + 1 : strides[1],
        :,
    ]


def to_nhwc(x: Array, layout: str) -> Array:
    """Return a 4-D array with channels last."""
    return x.transpose(0, 2, 3, 1) if layout == "NCHW" else x


def from_nhwc(x: Array, layout: str) -> Array:
    """Return a channels-last array in the given layout."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "NCHW" else x


def spatial_axes(layout: str) -> tuple[int, int]:
    """Return the positions of height and width."""
    return (2, 3) if layout == "NCHW" else (1, 2)


def with_spatial(shape: Sequence[int], layout: str, extents: tuple[int, int], channels: int) -> tuple[int, ...]:
    """Return a 4-D shape with other spatial extents and channels.

    Args:
        shape: gives the batch.
        layout: "NCHW" or "NHWC", of both shapes.
        extents: height and width.
        channels: of the result.
    """
    if layout == "NCHW":
        return (shape[0], channels, *extents)
    return (shape[0], *extents, channels)
