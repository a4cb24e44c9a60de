"""Sliding windows: averages of powers, and windows put back into an image."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.pooling import pooled
from qcompile.ops.reshape import reshaped


def _powered(node: OnnxNode, x: Value, exponent: float, name: str) -> Value:
    if exponent == 1.0:
        return x
    return node.add("pow", [x, node.constant("exponent", np.float32(exponent))], name=name)


def _lp_pool(node: OnnxNode) -> Value:
    """Import (Σ |x|^p)^(1/p) as the average over whole windows, times their size."""
    base, order = node.outputs[0], float(node.attr("p", 2))
    size = node.add("abs", [node.value(0)], name=f"{base}.size")
    powers = _powered(node, size, order, f"{base}.powers")
    view = replace(node, inputs=[powers], outputs=[f"{base}.mean"])
    mean = pooled(view, "avg_pool", [powers], count_include_pad=True)
    count = node.constant("count", np.float32(math.prod(node.attr("kernel_shape"))))
    total = node.add("mul", [mean, count], name=base if order == 1.0 else f"{base}.sum")
    return _powered(node, total, 1.0 / order, base)


def _global_lp_pool(node: OnnxNode) -> Value:
    x, base, order = node.value(0), node.outputs[0], float(node.attr("p", 2))
    powers = _powered(node, node.add("abs", [x], name=f"{base}.size"), order, f"{base}.powers")
    axes = tuple(range(2, len(x.shape)))
    name = base if order == 1.0 else f"{base}.sum"
    return _powered(node, node.add("reduce_sum", [powers], name=name, axes=axes, keepdims=True), 1.0 / order, base)


def _column_places(node: OnnxNode, image: list[int], block: list[int]) -> np.ndarray[Any, Any]:
    """Return where each element of the columns lies in the image: int64 [K, L], −1 outside."""
    axes = len(image)
    dilations = node.attr("dilations") or [1] * axes
    pads, strides = node.attr("pads") or [0] * (2 * axes), node.attr("strides") or [1] * axes
    flat = np.zeros((1,) * (2 * axes), np.int64)
    valid = np.ones((1,) * (2 * axes), np.bool_)
    for axis, extent in enumerate(image):
        span = dilations[axis] * (block[axis] - 1) + 1
        count = (extent + pads[axis] + pads[axes + axis] - span) // strides[axis] + 1
        tap = (np.arange(block[axis]) * dilations[axis]).reshape((-1,) + (1,) * (2 * axes - 1 - axis))
        step = (np.arange(count) * strides[axis] - pads[axis]).reshape((-1,) + (1,) * (axes - 1 - axis))
        at = tap + step
        valid = valid & (at >= 0) & (at < extent)
        flat = flat + at * math.prod(image[axis + 1 :])
    return np.where(valid, flat, -1).reshape(math.prod(block), -1)


def _col2im(node: OnnxNode) -> Value:
    """Import Col2Im: every element of the columns is added where it came from."""
    x, base = node.value(0), node.outputs[0]
    image = [int(d) for d in node.array(1, "image_shape").reshape(-1)]
    block = [int(d) for d in node.array(2, "block_shape").reshape(-1)]
    places = _column_places(node, image, block)
    batch, size = x.shape[0], math.prod(image)
    channels = x.shape[1] // places.shape[0]
    if x.shape[1:] != (channels * places.shape[0], places.shape[1]):
        node.fail(f"columns {x.type} do not fit blocks of {block} in an image of {image}")
    first = np.arange(batch * channels, dtype=np.int64).reshape(-1, 1, 1) * size
    numbers = np.where(places[None] >= 0, first + places[None], -1).reshape(-1)
    empty = node.constant("empty", np.zeros((batch * channels * size, 1), x.dtype))
    rows = reshaped(node, x, (x.type.size, 1), f"{base}.rows")
    operands = [empty, node.constant("numbers", numbers), rows]
    y = node.add("scatter", operands, name=f"{base}.flat", reduction="add")
    return reshaped(node, y, (batch, channels, *image), base)


CONVERTERS = {"Col2Im": _col2im, "GlobalLpPool": _global_lp_pool, "LpPool": _lp_pool}
