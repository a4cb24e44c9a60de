"""How convolutions, pooling and resizing pass open extents on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qcompile.ir.symbol import Axes, Extent
from qcompile.shapes.step import Rule, Step


def _places(layout: str) -> tuple[int, int]:
    return (1, 2) if layout == "NHWC" else (2, 3)


def _check_others(step: Step, channel: int) -> None:
    if step.axes[0][channel] is not None:
        raise step.refuse("the open axis holds its channels", step.axes[0][channel])
    if any(any(axes) for axes in step.axes[1:3]):
        raise step.refuse("its weights depend on the size")


def _moved(extent: Extent, before: int, after: int, span: int, stride: int, ceil: bool = False) -> Extent:
    """Return the number of windows along an open axis."""
    size = np.array(extent.table, np.int64)
    free = size + before + after - span
    count = (-(-free // stride) if ceil else free // stride) + 1
    if ceil:
        count -= (count - 1) * stride >= size + before
    return Extent(extent.symbol, tuple(int(n) for n in np.where(free < 0, 0, count)))


def _geometry(attrs: Any, kernel: tuple[int, int], axis: int) -> tuple[int, int, int, int]:
    """Return pads before and after, the span of a window and its step."""
    return attrs.pads[axis], attrs.pads[axis + 2], attrs.dilations[axis] * (kernel[axis] - 1) + 1, attrs.strides[axis]


def _kernel(step: Step, layout: str) -> tuple[int, int]:
    shape = step.node.inputs[1].shape
    return (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])


def _conv2d(step: Step) -> list[Axes]:
    attrs = step.node.attrs
    spatial = _places(attrs.layout)
    _check_others(step, 3 if attrs.layout == "NHWC" else 1)
    kernel, result = _kernel(step, attrs.layout), list(step.axes[0])
    for k, axis in enumerate(spatial):
        extent = result[axis]
        if extent is None:
            continue
        before, after, span, stride = _geometry(attrs, kernel, k)
        if after:
            step.mask(0, axis, 0.0)
        result[axis] = _moved(extent, before, after, span, stride)
    return [tuple(result)]


def _conv_transpose2d(step: Step) -> list[Axes]:
    attrs = step.node.attrs
    _check_others(step, 3 if attrs.layout == "NHWC" else 1)
    kernel, result = _kernel(step, attrs.layout), list(step.axes[0])
    for k, axis in enumerate(_places(attrs.layout)):
        extent = result[axis]
        if extent is None:
            continue
        before, after, span, stride = _geometry(attrs, kernel, k)
        step.mask(0, axis, 0.0)
        more = span + attrs.output_padding[k] - before - after
        result[axis] = Extent(extent.symbol, tuple((n - 1) * stride + more for n in extent.table))
    return [tuple(result)]


def _pool(step: Step) -> list[Axes]:
    attrs, result = step.node.attrs, list(step.axes[0])
    counted: list[Extent | None] = [None, None]
    for k, axis in enumerate(_places(attrs.layout)):
        extent = result[axis]
        if extent is None:
            continue
        before, after, span, stride = _geometry(attrs, attrs.kernel, k)
        past = after > 0 or (attrs.ceil_mode and stride > 1)
        average = step.node.op.name != "max_pool"
        if past:
            step.mask(0, axis, 0.0 if average else -math.inf)
        if past and average:
            counted[k] = extent
        result[axis] = _moved(extent, before, after, span, stride, attrs.ceil_mode)
    if any(counted):
        step.average_windows((counted[0], counted[1]))
    return [tuple(result)]


def _resize(step: Step) -> list[Axes]:
    attrs, result = step.node.attrs, list(step.axes[0])
    for k, axis in enumerate(_places(attrs.layout)):
        extent = result[axis]
        if extent is None:
            continue
        factor = round(attrs.scales[k])
        if factor != attrs.scales[k] or attrs.size[k] != extent.most * factor or attrs.coordinates not in _LOCAL:
            raise step.refuse("only whole factors with coordinates that do not depend on the size are served", extent)
        if attrs.mode != "nearest":
            step.mask(0, axis, None)
        result[axis] = Extent(extent.symbol, tuple(n * factor for n in extent.table))
    return [tuple(result)]


def _open_resize(step: Step) -> list[Axes]:
    attrs, result = step.node.attrs, list(step.axes[0])
    for k, axis in enumerate(_places(attrs.layout)):
        extent = result[axis]
        if extent is not None and (extent.symbol, extent.table) != (attrs.symbols[k], attrs.lengths[k]):
            raise step.refuse("its tables are for other extents", extent)
        sizes = attrs.sizes[k]
        result[axis] = Extent(attrs.symbols[k], sizes) if min(sizes) < max(sizes) else None
    return [tuple(result)]


_LOCAL = ("half_pixel", "asymmetric", "half_pixel_symmetric", "pytorch_half_pixel")


def _lrn(step: Step) -> list[Axes]:
    _check_others(step, 3 if getattr(step.node.attrs, "layout", "NCHW") == "NHWC" else 1)
    return [step.axes[0]]


WINDOWS: dict[str, Rule] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "max_pool": _pool,
    "avg_pool": _pool,
    "open_avg_pool": _pool,
    "resize": _resize,
    "open_resize": _open_resize,
    "lrn": _lrn,
}
"""Rules by operation."""
