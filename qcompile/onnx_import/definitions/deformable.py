"""Convolutions whose taps have moved: the points under every tap are sampled, and a convolution walks over them.

Source:
    ONNX DeformConv; Dai et al. 2017, Zhu et al. 2019 (the mask).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.onnx_import.definitions.body import Body

_AXES = 2
_MOST_POINTS = 1 << 24
"""Points that may be sampled: beyond any image of a network."""
_PAIR = 2  # axis of [N · G, taps, 2, H, W] on which the offset down stands before the one across


def _deform_conv(body: Body) -> None:
    """Write DeformConv: x [N, C, H, W], weights [M, C / groups, h, w], offsets [N, G · h · w · 2, H', W']."""
    x, weight, groups = body.shape(0), body.shape(1), int(body.attr("offset_group", 1))
    if len(x) != _AXES + 2 or len(weight) != _AXES + 2 or groups < 1 or x[1] % groups:
        body.fail(f"{groups} offset groups of {list(x)} with weights {list(weight)}; two spatial axes are supported")
    batch, channels, *image = x
    taps, out = weight[2] * weight[3], body.shape(2)[2:]
    if body.shape(2)[:2] != (batch, groups * taps * _AXES):
        body.fail(f"offsets {list(body.shape(2))} for {taps} taps in {groups} groups")
    if taps * math.prod(out) > _MOST_POINTS:
        body.fail(f"{taps} taps at {list(out)} places; at most {_MOST_POINTS} points are supported")
    step, start = _sampling_grid(body, image, out)
    rows = out[0] * taps
    moved = body.reshape(body.input(2), (batch * groups, taps, _AXES, *out))
    ends = (body.constant([n], "int64") for n in (-1, -1 - _AXES, _PAIR, -1))
    moved = body.add("Transpose", [body.add("Slice", [moved, *ends])], perm=[0, 3, 1, 4, 2])
    moved = body.add("Add", [body.add("Mul", [moved, body.constant(step)]), body.constant(start)])
    grid = body.reshape(moved, (batch * groups, rows, out[1], _AXES))
    images = body.reshape(body.input(0), (batch * groups, channels // groups, *image))
    seen = body.add("GridSample", [images, grid], mode="linear", padding_mode="zeros", align_corners=0)
    if body.has(4):
        mask = body.reshape(body.input(4), (batch * groups, taps, *out))
        mask = body.reshape(body.add("Transpose", [mask], perm=[0, 2, 1, 3]), (batch * groups, 1, rows, out[1]))
        seen = body.add("Mul", [seen, mask])
    columns = body.reshape(seen, (batch, channels, rows, out[1]))
    operands = [columns, body.reshape(body.input(1), (*weight[:2], taps, 1))]
    operands += [body.input(3)] if body.has(3) else []
    window = {"kernel_shape": [taps, 1], "strides": [taps, 1]}
    body.add("Conv", operands, body.output(0), group=body.attr("group", 1), **window)


def _sampling_grid(body: Body, image: Sequence[int], out: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return what one element is in a grid of −1 … 1, [2], and where each tap is that has not moved.

    The latter is [1, H', taps, W', 2]; both have the column first, as GridSample does.
    """
    kernel = body.shape(1)[2:]
    strides, dilations = body.attr("strides") or [1] * _AXES, body.attr("dilations") or [1] * _AXES
    pads = body.attr("pads") or [0] * (2 * _AXES)
    places = []
    for axis in range(_AXES):
        span = dilations[axis] * (kernel[axis] - 1) + 1
        if (image[axis] + pads[axis] + pads[_AXES + axis] - span) // strides[axis] + 1 != out[axis]:
            body.fail(f"offsets for {list(out)} points do not fit an image of {list(image)}")
        outer = np.arange(out[axis]) * strides[axis] - pads[axis]
        places.append(outer[:, None] + np.arange(kernel[axis]) * dilations[axis])
    shape = (out[0], kernel[0], kernel[1], out[1])
    down = np.broadcast_to(places[0][:, :, None, None], shape)
    across = np.broadcast_to(places[1].T[None, None], shape)
    size = np.array(image[::-1], np.float64)
    start = (2 * np.stack([across, down], -1) + 1) / size - 1
    return 2 / size, start.reshape(1, out[0], kernel[0] * kernel[1], out[1], _AXES)


DOMAIN = ""
DEFINITIONS = {"DeformConv": _deform_conv}
