"""Convolutions whose weights are computed at run time: products of two activations.

Kernels of layers arrange their weights when they are compiled. Weights that follow from an input (modulated by a
style, cut out of another image) meet the windows of x as one matrix the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped
from qcompile.ops.sliced import sliced
from qcompile.ops.spatial import Pads


def is_computed(value: Value) -> bool:
    """Return whether a tensor follows from an input of the graph; what rounds a constant does not."""
    seen, stack = {value}, [value]
    while stack:
        part = stack.pop()
        if part.is_constant:
            continue
        if part.producer is None:
            return True
        more = set(part.producer.inputs) - seen
        seen |= more
        stack.extend(more)
    return False


def has_computed(node: OnnxNode) -> bool:
    """Return whether the weights or the bias of a layer, its inputs 1 and 2, are computed at run time."""
    return any(is_computed(node.value(k)) for k in (1, 2) if node.has(k))


def biased(node: OnnxNode, convert: Callable[[OnnxNode], Value]) -> Value:
    """Return the result of a layer with its bias, input 2, added by a node of its own.

    Args:
        node: of a convolution.
        convert: makes the layer without a bias.
    """
    y = convert(replace(node, inputs=list(node.inputs[:2]), outputs=[f"{node.outputs[0]}.sums"]))
    shape = (y.shape[1], *(1 for _ in y.shape[2:]))
    return node.add("add", [y, reshaped(node, node.value(2), shape, f"{node.outputs[0]}.bias")])


def convolved(
    node: OnnxNode,
    x: Value,
    weight: Value,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int,
) -> Value:
    """Return the convolution of an ONNX node without a bias, with as many axes as the node's input.

    Formula:
        y[n, g, o, p] = Σ_q weight[g, o, q] · window[n, g, q, p], q over channels and taps, p over places

    Args:
        node: asks for it.
        x: [N, C, H, W].
        weight: [O, C / groups, kH, kW].
        strides: vertical and horizontal step, elements.
        pads: zeros added at top, left, bottom, right.
        dilations: distance of taps, elements.
        groups: channel groups.
    """
    base, (outputs, channels, *kernel) = node.outputs[0], weight.shape
    if min(*strides, *dilations) < 1 or min(pads) < 0:
        node.fail(f"strides {tuple(strides)}, dilations {tuple(dilations)}, pads {tuple(pads)}")
    if groups < 1 or channels * groups != x.shape[1] or outputs % groups:
        node.fail(f"weight {weight.type} does not fit {x.type} in {groups} groups")
    if any(pads):
        top, left, bottom, right = pads
        x = node.add("pad", [x], f"{base}.padded", pads=(0, 0, top, left, 0, 0, bottom, right))
    size = [(x.shape[2 + a] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1 for a in (0, 1)]
    if min(size) < 1:
        node.fail(f"a window of {kernel} does not fit {x.type}")
    windows = _windows(node, x, kernel, strides, dilations, size)
    taps = kernel[0] * kernel[1]
    shape = (x.shape[0], groups, channels * taps, size[0] * size[1])
    columns = reshaped(node, windows, shape, f"{base}.columns")
    matrix = reshaped(node, weight, (1, groups, outputs // groups, channels * taps), f"{base}.matrix")
    y = node.add("matmul", [matrix, columns], f"{base}.product")
    spatial = tuple(size)[4 - len(node.value(0).shape) :]
    return reshaped(node, y, (x.shape[0], outputs, *spatial), base)


def _windows(
    node: OnnxNode, x: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], size: list[int]
) -> Value:
    """Return what each tap sees: [N, C, taps, places]."""
    base, shape = node.outputs[0], (*x.shape[:2], 1, size[0] * size[1])
    parts: list[Value] = []
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            taps = (row, column)
            begins = [tap * dilation for tap, dilation in zip(taps, dilations, strict=True)]
            ranges = {2 + a: slice(begins[a], begins[a] + (size[a] - 1) * strides[a] + 1, strides[a]) for a in (0, 1)}
            part = sliced(node, x, ranges, f"{base}.tap{len(parts)}")
            parts.append(reshaped(node, part, shape, f"{base}.tap{len(parts)}.places"))
    return parts[0] if len(parts) == 1 else node.add("concat", parts, f"{base}.windows", axis=2)


def spread(
    node: OnnxNode,
    x: Value,
    weight: Value,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    added: Sequence[int],
    groups: int,
) -> Value:
    """Return the transposed convolution without a bias: that of x with zeros between its elements, taps reversed.

    Args:
        node: asks for it.
        x: [N, C, H, W].
        weight: [O, C / groups, kH, kW].
        strides: vertical and horizontal distance, in the result, of neighbouring elements of x.
        pads: elements of the result cut off at top, left, bottom, right.
        dilations: distance of taps, elements.
        added: rows and columns that the result has at bottom and right besides.
        groups: channel groups.
    """
    base, (n, c, h, w) = node.outputs[0], x.shape
    if min(*strides, *dilations) < 1:
        node.fail(f"strides {tuple(strides)}, dilations {tuple(dilations)}")
    if max(strides) > 1:
        apart = reshaped(node, x, (n, c, h, 1, w, 1), f"{base}.apart")
        behind = (0, 0, 0, strides[0] - 1, 0, strides[1] - 1)
        apart = node.add("pad", [apart], f"{base}.zeros", pads=(*(0 for _ in behind), *behind))
        x = reshaped(node, apart, (n, c, h * strides[0], w * strides[1]), f"{base}.spread")
        ranges = {2: slice((h - 1) * strides[0] + 1), 3: slice((w - 1) * strides[1] + 1)}
        x = sliced(node, x, ranges, f"{base}.inner")
    reach = [dilations[a] * (weight.shape[2 + a] - 1) for a in (0, 1)]
    begins = [reach[a] - pads[a] for a in (0, 1)]
    ends = [reach[a] - pads[2 + a] + added[a] for a in (0, 1)]
    inside = {2 + a: slice(max(0, -begins[a]), x.shape[2 + a] - max(0, -ends[a])) for a in (0, 1)}
    x = sliced(node, x, inside, f"{base}.cut")
    turned = sliced(node, weight, {2: slice(None, None, -1), 3: slice(None, None, -1)}, f"{base}.turned")
    around = (max(0, begins[0]), max(0, begins[1]), max(0, ends[0]), max(0, ends[1]))
    return convolved(node, x, turned, (1, 1), around, dilations, groups)
