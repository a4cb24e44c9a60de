"""Windows over three axes as windows over two: [N, C, D, H, W].

A pooling is one over height and width, then one over depth: both maximum and mean are separable, the mean because
the number of taps of a window is the product of those along its axes. A convolution sees the taps along depth as
further channels. A transposed one adds up those of its taps along depth, each moved to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qcompile.onnx_import.definitions.body import Body
from qcompile.ops.spatial import SAME_MODES, same_pads

_AXES = 3
_MOST_TAPS = 256
"""Taps along depth, each of which becomes nodes of its own; no network has windows that deep."""


def _numbers(body: Body, name: str, default: int, count: int = _AXES) -> list[int]:
    values = [int(v) for v in body.attr(name, [default] * count)]
    if len(values) != count:
        body.fail(f"{name} {values} for {_AXES} spatial axes")
    return values


def _pads(body: Body, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Return begins and ends of the padding, of explicit `pads` or of `auto_pad`."""
    mode = body.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = _numbers(body, "pads", 0, 2 * _AXES)
        if min(pads) < 0:
            body.fail(f"pads {pads}; none may be negative")
        return pads
    if mode == "VALID":
        return [0] * (2 * _AXES)
    if mode not in SAME_MODES:
        body.fail(f"unknown auto_pad '{mode}'")
    windows = zip(body.shape(0)[2:], kernel, strides, dilations, strict=True)
    pairs = [same_pads(size, taps, stride, dilation, mode) for size, taps, stride, dilation in windows]
    return [begin for begin, _ in pairs] + [end for _, end in pairs]


def _pooling(op: str) -> Callable[[Body], None]:
    """Return the definition of a pooling over three axes."""

    def define(body: Body) -> None:
        if len(body.shape(0)) != _AXES + 2:
            return
        if body.output(1) and body.attr("storage_order", 0):
            body.fail("its output 1 counts places by columns, of which three axes have none")
        kernel = _numbers(body, "kernel_shape", 0)
        strides, dilations = _numbers(body, "strides", 1), _numbers(body, "dilations", 1)
        pads = _pads(body, kernel, strides, dilations)
        n, c, d, h, w = body.shape(0)
        more = {name: body.attr(name) for name in ("ceil_mode", "count_include_pad", "p")}
        windows = [(k, s, 1 if op == "LpPool" else g) for k, s, g in zip(kernel, strides, dilations, strict=True)]
        if op == "LpPool" and max(dilations) > 1:
            body.fail(f"dilations {dilations}")
        plane, depth = (
            {
                "kernel_shape": [windows[a][0] for a in axes] + [1] * (2 - len(axes)),
                "strides": [windows[a][1] for a in axes] + [1] * (2 - len(axes)),
                "dilations": None if op == "LpPool" else [windows[a][2] for a in axes] + [1] * (2 - len(axes)),
                "pads": [*(pads[a] for a in axes), *[0] * (2 - len(axes)), *(pads[3 + a] for a in axes)]
                + [0] * (2 - len(axes)),
                **more,
            }
            for axes in ((1, 2), (0,))
        )
        counted = body.output(1) is not None
        y, place = _pooled(body, op, body.reshape(body.input(0), (n, c * d, h, w)), counted, plane)
        across = body.add("Shape", [y], start=2)
        y, chosen = _pooled(body, op, body.reshape(y, (n, c, d, -1)), counted, depth)
        result = body.add("Concat", [body.constant([n, c, -1], "int64"), across], axis=0)
        body.add("Reshape", [y, result], body.output(0))
        if counted:
            # Along depth planes are chosen; within each the place is known already.
            place = body.add("Gather", [body.reshape(place, (-1,)), chosen])
            body.add("Reshape", [place, result], body.output(1))

    return define


def _pooled(body: Body, op: str, x: str, counted: bool, attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Append a pooling; return its result, and the places of the largest elements where these count, "" elsewhere."""
    y = body.add(op, [x], **attributes)
    if not counted:
        return y, ""
    body.nodes[-1].output.append(f"{y}.places")
    return y, f"{y}.places"


def _sliced(body: Body, x: str, axis: int, begin: int, end: int, step: int = 1) -> str:
    return body.add("Slice", [x, *(body.constant([n], "int64") for n in (begin, end, axis, step))])


def _padded(body: Body, x: str, rank: int, axis: int, before: int, after: int) -> str:
    pads = [0] * (2 * rank)
    pads[axis], pads[rank + axis] = before, after
    return body.add("Pad", [x, body.constant(pads, "int64")]) if before or after else x


def _weight(body: Body) -> tuple[int, ...]:
    """Return the shape of the weights."""
    weight = body.shape(1)
    if len(weight) != _AXES + 2:
        body.fail("a convolution over three axes needs a weight of five axes")
    if weight[2] > _MOST_TAPS:
        body.fail(f"a window of {weight[2]} taps along depth; at most {_MOST_TAPS} are supported")
    return weight


def _convolution(body: Body) -> None:
    if len(body.shape(0)) != _AXES + 2:
        return
    weight = _weight(body)
    outputs, inputs, taps, *kernel = weight
    strides, dilations = _numbers(body, "strides", 1), _numbers(body, "dilations", 1)
    pads = _pads(body, [taps, *kernel], strides, dilations)
    n, c, d, h, w = body.shape(0)
    depth = (d + pads[0] + pads[3] - dilations[0] * (taps - 1) - 1) // strides[0] + 1
    if depth < 1:
        body.fail(f"a window of {taps} does not fit a depth of {d}")
    x = _padded(body, body.input(0), 5, 2, pads[0], pads[3])
    parts = []
    for tap in range(taps):
        begin = tap * dilations[0]
        part = _sliced(body, x, 2, begin, begin + (depth - 1) * strides[0] + 1, strides[0])
        parts.append(body.reshape(part, (n, c, 1, depth, h, w)))
    stacked = body.add("Transpose", [body.add("Concat", parts, axis=2)], perm=[0, 3, 1, 2, 4, 5])
    images = body.reshape(stacked, (n * depth, c * taps, h, w))
    matrix = body.reshape(body.input(1), (outputs, inputs * taps, *kernel))
    y = body.add("Conv", [images, matrix, *([body.input(2)] if body.has(2) else [])], strides=strides[1:],
                 dilations=dilations[1:], pads=[*pads[1:3], *pads[4:6]], group=body.attr("group", 1))  # fmt: skip
    _from_images(body, y, n, depth, outputs)


def _from_images(body: Body, y: str, n: int, depth: int, channels: int) -> None:
    """Append [N · D, C, H, W] as [N, C, D, H, W], the result."""
    across = body.add("Shape", [y], start=2)
    shape = body.add("Concat", [body.constant([n, depth, channels], "int64"), across], axis=0)
    body.add("Transpose", [body.add("Reshape", [y, shape])], body.output(0), perm=[0, 2, 1, 3, 4])


def _transposed_convolution(body: Body) -> None:
    if len(body.shape(0)) != _AXES + 2:
        return
    weight = _weight(body)
    if body.attr("output_shape") is not None:
        body.fail("a transposed convolution over three axes needs pads, not output_shape")
    if body.attr("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        body.fail("auto_pad of a transposed convolution over three axes is not supported")
    group = int(body.attr("group", 1))
    strides, dilations, more = (_numbers(body, name, v) for name, v in
                                (("strides", 1), ("dilations", 1), ("output_padding", 0)))  # fmt: skip
    pads = _pads(body, list(weight[2:]), strides, dilations)
    n, c, d, h, w = body.shape(0)
    taps, outputs = weight[2], weight[1] * group
    images = body.reshape(body.add("Transpose", [body.input(0)], perm=[0, 2, 1, 3, 4]), (n * d, c, h, w))
    total = (d - 1) * strides[0] + dilations[0] * (taps - 1) + 1 + more[0]
    terms = []
    for tap in range(taps):
        plane = body.reshape(_sliced(body, body.input(1), 2, tap, tap + 1), (*weight[:2], *weight[3:]))
        y = body.add("ConvTranspose", [images, plane], strides=strides[1:],
                     dilations=dilations[1:], pads=[*pads[1:3], *pads[4:6]], output_padding=more[1:],
                     group=group)  # fmt: skip
        y = _padded(body, body.reshape(y, (n, d, 1, -1)), 4, 2, 0, strides[0] - 1)
        y = _sliced(body, body.reshape(y, (n, d * strides[0], -1)), 1, 0, (d - 1) * strides[0] + 1)
        begin = tap * dilations[0]
        terms.append(_padded(body, y, 3, 1, begin, total - begin - (d - 1) * strides[0] - 1))
    y = terms[0]
    for term in terms[1:]:
        y = body.add("Add", [y, term])
    y = _sliced(body, y, 1, pads[0], total - pads[3])
    extents = [(size - 1) * strides[a] + dilations[a] * (weight[2 + a] - 1) + 1 + more[a] - pads[a] - pads[3 + a]
               for a, size in ((1, h), (2, w))]  # fmt: skip
    y = body.reshape(y, (n, total - pads[0] - pads[3], outputs, *extents))
    last = None if body.has(2) else body.output(0)
    y = body.add("Transpose", [y], last, perm=[0, 2, 1, 3, 4])
    if body.has(2):
        body.add("Add", [y, body.reshape(body.input(2), (1, outputs, 1, 1, 1))], body.output(0))


DOMAIN = ""
DEFINITIONS = {
    "AveragePool": _pooling("AveragePool"),
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "LpPool": _pooling("LpPool"),
    "MaxPool": _pooling("MaxPool"),
}
