"""Reductions of a function of the operand, and means of several operands."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.layout import axis_indices
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.reshape import reshaped

_AXES_INPUT_SINCE = 18


def _axes(node: OnnxNode, rank: int) -> tuple[int, ...] | None:
    """Return the axes to reduce; None where the operand is to stay as it is."""
    if node.opset >= _AXES_INPUT_SINCE:
        given = node.array_or_none(1, "axes")
        axes = [] if given is None else given.reshape(-1).tolist()
    else:
        axes = list(node.attr("axes", []))
    if not axes:
        return None if node.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis_indices(axes, rank)))


def _reduction(before: str, after: str) -> Callable[[OnnxNode], Value]:
    """Return a converter of after(Σ before(x)).

    Args:
        before: "", "abs" or "square".
        after: "", "sqrt" or "log".
    """

    def convert(node: OnnxNode) -> Value:
        x, base = node.value(0), node.outputs[0]
        axes = _axes(node, len(x.shape))
        if before == "abs":
            x = node.add("abs", [x], name=f"{base}.size")
        elif before == "square":
            x = node.add("mul", [x, x], name=f"{base}.square")
        if axes is not None:
            name = f"{base}.sum" if after else base
            x = node.add("reduce_sum", [x], name=name, axes=axes, keepdims=bool(node.attr("keepdims", 1)))
        return node.add(after, [x], name=base) if after else x

    return convert


def _log_sum_exp(node: OnnxNode) -> Value:
    """Import ln Σ eˣ = m + ln Σ e^(x − m) with the largest element m."""
    x, base = node.value(0), node.outputs[0]
    axes = _axes(node, len(x.shape))
    if axes is None:
        return x
    most = node.add("reduce_max", [x], name=f"{base}.most", axes=axes, keepdims=True)
    grown = node.add("exp", [node.add("sub", [x, most], name=f"{base}.below")], name=f"{base}.exp")
    total = node.add("reduce_sum", [grown], name=f"{base}.sum", axes=axes, keepdims=True)
    y = node.add("add", [node.add("log", [total], name=f"{base}.log"), most], name=f"{base}.kept")
    if node.attr("keepdims", 1):
        return y
    return reshaped(node, y, [d for a, d in enumerate(x.shape) if a not in axes], base)


def _mean(node: OnnxNode) -> Value:
    total, count = node.value(0), len(node.inputs)
    for index in range(1, count):
        total = node.add("add", [total, node.value(index)], name=f"{node.outputs[0]}.{index}")
    return node.add("mul", [total, node.constant("share", np.float32(1.0 / count))])


def _lp_normalization(node: OnnxNode) -> Value:
    x, base = node.value(0), node.outputs[0]
    order, axis = int(node.attr("p", 2)), axis_indices([node.attr("axis", -1)], len(x.shape))[0]
    if order == 1:
        size = node.add("abs", [x], name=f"{base}.size")
    elif order == 2:
        size = node.add("mul", [x, x], name=f"{base}.square")
    else:
        node.fail(f"the norm of order {order}; ONNX has 1 and 2")
    norm = node.add("reduce_sum", [size], name=f"{base}.sum", axes=(axis,), keepdims=True)
    if order == 2:
        norm = node.add("sqrt", [norm], name=f"{base}.norm")
    # A norm of 0 means that all elements are; dividing by a tiny number leaves them 0.
    tiny = node.constant("tiny", np.float32(np.finfo(np.float32).tiny))
    return node.add("div", [x, node.add("maximum", [norm, tiny], name=f"{base}.divisor")])


def _normalized(node: OnnxNode, groups: int, per_group: bool) -> Value:
    """Normalize groups of channels, then scale and shift.

    Args:
        node: x, scale, bias.
        groups: channels are divided into them.
        per_group: whether scale and bias have one value per group, else one per channel.
    """
    x, base = node.value(0), node.outputs[0]
    batch, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        node.fail(f"{channels} channels do not divide into {groups} groups")
    length = math.prod(x.shape[1:]) // groups
    rows = reshaped(node, x, (batch, groups, length), f"{base}.rows")
    one, zero = node.constant("one", np.ones(length, np.float32)), node.constant("zero", np.zeros(length, np.float32))
    epsilon = float(node.attr("epsilon", 1e-5))
    y = node.add("layer_norm", [rows, one, zero], name=f"{base}.normal", axis=-1, epsilon=epsilon)
    count = groups if per_group else channels
    shape = (batch, groups, length) if per_group else x.shape
    y = reshaped(node, y, shape, f"{base}.image")
    column = (1, count) + (1,) * (len(shape) - 2)
    scale, bias = (reshaped(node, node.value(k), column, f"{base}.{w}") for k, w in ((1, "scale"), (2, "bias")))
    y = node.add("mul", [y, scale], name=f"{base}.scaled")
    y = node.add("add", [y, bias], name=f"{base}.shifted" if per_group else base)
    return reshaped(node, y, x.shape, base)


def _instance_normalization(node: OnnxNode) -> Value:
    if len(node.type(0).shape) < 3:
        node.fail(f"{node.type(0)} has no spatial axes")
    return _normalized(node, node.type(0).shape[1], per_group=False)


def _group_normalization(node: OnnxNode) -> Value:
    return _normalized(node, int(node.attr("num_groups")), per_group=node.opset < 21)


CONVERTERS = {
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LpNormalization": _lp_normalization,
    "Mean": _mean,
    "ReduceL1": _reduction("abs", ""),
    "ReduceL2": _reduction("square", "sqrt"),
    "ReduceLogSum": _reduction("", "log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": _reduction("square", ""),
}
