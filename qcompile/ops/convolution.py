"""Convolution in NumPy, fast enough to calibrate with: patches and BLAS, block by block.

A block of patches stays small enough for the cache, so memory does not grow with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from qcompile.ir.opdef import Array

_BLOCK = 160_000
"""Elements of patches gathered at a time."""


class Window(Protocol):
    """The attributes of a convolution that its arithmetic needs; see `qcompile.ops.conv2d.Conv2dAttrs`."""

    @property
    def strides(self) -> tuple[int, int]:
        """Vertical and horizontal step, elements."""

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Elements added at top, left, bottom, right."""

    @property
    def dilations(self) -> tuple[int, int]:
        """Distance of taps, elements."""

    @property
    def groups(self) -> int:
        """Channel groups."""

    @property
    def layout(self) -> str:
        """NCHW or NHWC."""


def convolve(x: Array, weight: Array, attrs: Window) -> Array:
    """Return Σ x[n, h·s+i·d−p, w·s+j·d−p, c] · weight[o, i, j, c], without bias.

    Args:
        x: floating point, in `attrs.layout`.
        weight: the same element type; OIHW for NCHW, OHWI for NHWC.
        attrs: the window.

    Returns:
        A new array in `attrs.layout`.
    """
    first = attrs.layout == "NCHW"
    kernel = weight.shape[2:] if first else weight.shape[1:3]
    per_group = weight.shape[1] if first else weight.shape[3]
    if kernel == (1, 1) and attrs.groups == 1 and not any(attrs.pads):
        return _pointwise(x, weight, attrs.strides, first)
    x = _padded(x, attrs.pads, first)
    spatial = x.shape[2:] if first else x.shape[1:3]
    out = [(spatial[a] - attrs.dilations[a] * (kernel[a] - 1) - 1) // attrs.strides[a] + 1 for a in (0, 1)]
    extents = (out[0], out[1])
    if first:
        y = np.empty((x.shape[0], weight.shape[0], *extents), x.dtype)
        convolve_image = _channels_first
    else:
        y = np.empty((x.shape[0], *extents, weight.shape[0]), x.dtype)
        depthwise = per_group == 1 and weight.shape[0] == attrs.groups
        convolve_image = _channels_last_depthwise if depthwise else _channels_last
    for image, result in zip(x, y, strict=True):
        convolve_image(image, weight, attrs, result)
    return y


def integer_convolve(x: Array, weight: Array, attrs: Window) -> Array:
    """Return the exact int32 sums of a convolution of integers.

    Formula:
        float32 sums are exact while 255 · max Σ |w| stays below 2^24 (every partial sum does too, in any
        order), float64 ones below 2^53

    Args:
        x: centred int8 activations, |x| ≤ 255, of any element type, in `attrs.layout`.
        weight: int8, OIHW or OHWI.
        attrs: the window.
    """
    reach = 255 * int(np.abs(weight.reshape(weight.shape[0], -1).astype(np.int64)).sum(axis=1).max())
    kind = np.float32 if reach < 2**24 else np.float64
    return convolve(x.astype(kind, copy=False), weight.astype(kind), attrs).astype(np.int32)


def _pointwise(x: Array, weight: Array, strides: tuple[int, int], first: bool) -> Array:
    """Convolve with one tap: a matrix product."""
    matrix = weight.reshape(weight.shape[0], -1)
    if strides != (1, 1):
        x = x[:, :, :: strides[0], :: strides[1]] if first else x[:, :: strides[0], :: strides[1]]
    if first:
        n, channels, h, w = x.shape
        return np.asarray(np.matmul(matrix, x.reshape(n, channels, h * w))).reshape(n, -1, h, w)
    flat = x.reshape(-1, x.shape[-1])
    return np.asarray(np.matmul(flat, matrix.T)).reshape(*x.shape[:-1], -1)


def _padded(x: Array, pads: Sequence[int], first: bool) -> Array:
    """Return x with zeros around it, C-contiguous."""
    if not any(pads):
        return np.ascontiguousarray(x)
    top, left, bottom, right = pads
    axes = (2, 3) if first else (1, 2)
    shape = list(x.shape)
    shape[axes[0]] += top + bottom
    shape[axes[1]] += left + right
    padded = np.zeros(shape, x.dtype)
    inside: list[Any] = [slice(None)] * 4
    inside[axes[0]] = slice(top, shape[axes[0]] - bottom)
    inside[axes[1]] = slice(left, shape[axes[1]] - right)
    padded[tuple(inside)] = x
    return padded


def _blocks(total: int, elements_each: int) -> list[slice]:
    """Return slices of [0, total) whose patches stay within the block size."""
    step = max(1, min(total, _BLOCK // max(1, elements_each)))
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def _channels_first(x: Array, weight: Array, attrs: Window, y: Array) -> None:
    """Convolve one padded image [C, H, W] into y [O, H_out, W_out]."""
    outputs, per_group, kh, kw = weight.shape
    (sh, sw), (dh, dw) = attrs.strides, attrs.dilations
    _, rows, columns = y.shape
    groups, taps = attrs.groups, per_group * kh * kw
    sc, sy, sx = x.strides
    view = as_strided(
        x,
        (groups, per_group, kh, kw, rows, columns),
        (sc * per_group, sc, sy * dh, sx * dw, sy * sh, sx * sw),
        writeable=False,
    )
    matrices = weight.reshape(groups, outputs // groups, taps)
    result = y.reshape(groups, outputs // groups, rows, columns)
    # Few groups: blocks of rows within each; many (depthwise): blocks of groups.
    row_blocks = _blocks(rows, taps * columns) if groups < 8 else [slice(0, rows)]
    for rs in row_blocks:
        count = (rs.stop - rs.start) * columns
        for gs in _blocks(groups, taps * count):
            patches = view[gs, :, :, :, rs].reshape(gs.stop - gs.start, taps, count)
            product = np.matmul(matrices[gs], patches)
            result[gs, :, rs] = product.reshape(product.shape[0], -1, rs.stop - rs.start, columns)


def _channels_last(x: Array, weight: Array, attrs: Window, y: Array) -> None:
    """Convolve one padded image [H, W, C] into y [H_out, W_out, O]."""
    outputs, kh, kw, per_group = weight.shape
    (sh, sw), (dh, dw) = attrs.strides, attrs.dilations
    rows, columns, _ = y.shape
    groups, taps = attrs.groups, per_group * kh * kw
    sy, sx, sc = x.strides
    view = as_strided(
        x,
        (groups, rows, columns, kh, kw, per_group),
        (sc * per_group, sy * sh, sx * sw, sy * dh, sx * dw, sc),
        writeable=False,
    )
    matrices = weight.reshape(groups, outputs // groups, taps).transpose(0, 2, 1)
    result = y.reshape(rows, columns, groups, outputs // groups)
    for rs in _blocks(rows, groups * taps * columns):
        count = (rs.stop - rs.start) * columns
        patches = view[:, rs].reshape(groups, count, taps)
        product = np.matmul(patches, matrices).reshape(groups, rs.stop - rs.start, columns, -1)
        result[rs] = product.transpose(1, 2, 0, 3)


def _channels_last_depthwise(x: Array, weight: Array, attrs: Window, y: Array) -> None:
    """Convolve one padded image [H, W, C] channel by channel into y [H_out, W_out, C]."""
    _, kh, kw, _ = weight.shape
    (sh, sw), (dh, dw) = attrs.strides, attrs.dilations
    rows, columns, channels = y.shape
    taps = np.ascontiguousarray(weight[:, :, :, 0].transpose(1, 2, 0))
    merged = sw == 1
    if merged:
        # The pixels of a row are neighbours then: one long product instead of one for each pixel's few channels.
        taps = np.tile(taps, columns)
        x, y = x.reshape(len(x), -1), y.reshape(rows, -1)
    for rs in _blocks(rows, columns * channels * 2):
        total = y[rs]
        part = np.empty_like(total)
        for i in range(kh):
            top = rs.start * sh + i * dh
            band = x[top : top + (total.shape[0] - 1) * sh + 1 : sh]
            for j in range(kw):
                if merged:
                    seen = band[:, j * dw * channels : (j * dw + columns) * channels]
                else:
                    seen = band[:, j * dw : j * dw + (columns - 1) * sw + 1 : sw]
                if i == j == 0:
                    np.multiply(seen, taps[i, j], out=total)
                else:
                    np.multiply(seen, taps[i, j], out=part)
                    total += part
