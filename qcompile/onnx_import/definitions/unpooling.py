"""What a maximum pooling took, back at its places.

Source:
    ONNX MaxUnpool; Zeiler and Fergus 2014.
"""

from __future__ import annotations

import math

import numpy as np

from qcompile.onnx_import.definitions.body import Body


def _max_unpool(body: Body) -> None:
    """Write MaxUnpool: elements x [N, C, D…] at `places` of a flat result of zeros, whose extents the window gives."""
    x, axes = body.shape(0), len(body.shape(0)) - 2
    kernel = body.attr("kernel_shape") or []
    strides, pads = body.attr("strides") or [1] * axes, body.attr("pads") or [0] * (2 * axes)
    if axes < 1 or body.shape(1) != x or not len(kernel) == len(strides) == axes or len(pads) != 2 * axes:
        body.fail(f"{list(x)} at places {list(body.shape(1))} with a window of {list(kernel)}")
    shape = list(x[:2])
    for a in range(axes):
        shape.append((x[2 + a] - 1) * strides[a] + kernel[a] - pads[a] - pads[axes + a])
    wanted = _wanted(body, shape)
    count = math.prod(shape)
    empty = body.add("Expand", [body.constant([0]), body.constant([count], "int64")])
    flat = (body.reshape(body.input(k), (math.prod(x),)) for k in (1, 0))
    filled = body.add("ScatterElements", [empty, *flat], axis=0)
    more = [w - d for w, d in zip(wanted, shape, strict=True)]
    if not any(more):
        body.add("Reshape", [filled, body.constant(shape, "int64")], body.output(0))
        return
    behind = body.constant([0] * len(shape) + more, "int64")
    body.add("Pad", [body.reshape(filled, shape), behind], body.output(0))


def _wanted(body: Body, shape: list[int]) -> list[int]:
    """Return the extents that the model asks for; `shape` where it leaves them out."""
    if not body.has(2):
        return shape
    given = body.value(2).data
    if given is None:
        body.fail("its output_shape is computed at run time")
    wanted = [int(n) for n in np.asarray(given).reshape(-1)]
    if len(wanted) != len(shape):
        body.fail(f"its output_shape {wanted} has not {len(shape)} axes")
    return wanted


DOMAIN = ""
DEFINITIONS = {"MaxUnpool": _max_unpool}
