"""Layer normalization that exporters write as means, differences and a root."""

from __future__ import annotations

import numpy as np

from qcompile.ir.graph import Node, Value
from qcompile.ir.rewrite import Rewriter
from qcompile.passmgr.patterns import (
    RuleTable,
    made_by,
    only_reader,
    replace,
    scalar,
    with_constant,
    with_scalar,
)


def quotient_to_layer_norm(node: Node, rewriter: Rewriter) -> bool:
    """(x − mean x) / √(mean (x − mean x)² + ε) = layer_norm(x), over the last axes.

    As a division by the root, or a multiplication by its reciprocal.
    """
    for deviation, divisor in (node.inputs, node.inputs[::-1]):
        if node.op.name == "mul":
            inverse = made_by(divisor, "reciprocal")
            if inverse is None:
                continue
            divisor = inverse.inputs[0]
        found = _deviation(deviation)
        epsilon = None if found is None else _deviation_root(divisor, found)
        if found is None or epsilon is None or node.output.dtype != "float32":
            continue
        x, axis = found
        normalized = x.shape[axis:]
        scale = rewriter.constant(f"{node.output.name}.scale", np.ones(normalized, np.float32))
        bias = rewriter.constant(f"{node.output.name}.bias", np.zeros(normalized, np.float32))
        return replace(rewriter, node, "layer_norm", [x, scale, bias], axis=axis, epsilon=epsilon)
    return False


def _mean(value: Value) -> tuple[Value, int] | None:
    """Return x and the first of the last axes over which value is its mean, kept with extent 1."""
    node = made_by(value, "reduce_mean")
    if node is None or not node.attrs.keepdims or not node.attrs.axes:
        return None
    x, axes = node.inputs[0], node.attrs.axes
    rank = len(x.shape)
    return (x, axes[0]) if tuple(axes) == tuple(range(axes[0], rank)) else None


def _deviation(value: Value) -> tuple[Value, int] | None:
    """Return x and the axis where value is x − mean x."""
    node = made_by(value, "sub")
    mean = None if node is None else _mean(node.inputs[1])
    return mean if node is not None and mean is not None and mean[0] is node.inputs[0] else None


def _deviation_root(value: Value, wanted: tuple[Value, int]) -> float | None:
    """Return ε where value is √(mean (x − mean x)² + ε) of the wanted x and axis."""
    root = made_by(value, "sqrt")
    total = None if root is None else made_by(root.inputs[0], "add")
    pair = None if total is None else with_scalar(total)
    variance = None if pair is None else _mean(pair[0])
    if pair is None or variance is None or variance[1] != wanted[1]:
        return None
    square = made_by(variance[0], "mul", "pow")
    if square is None:
        return None
    base, other = square.inputs
    squared = scalar(other) == 2.0 if square.op.name == "pow" else other is base
    return pair[1] if squared and _deviation(base) == wanted else None


def scale_into_layer_norm(node: Node, rewriter: Rewriter) -> bool:
    """layer_norm(x)·g = layer_norm with scale·g and bias·g; layer_norm(x) + b = layer_norm with bias + b."""
    pair = with_constant(node)
    norm = None if pair is None else made_by(pair[0], "layer_norm")
    if pair is None or norm is None or getattr(node.attrs, "activation", "none") != "none":
        return False
    x, scale, bias = norm.inputs
    number = pair[1].constant()
    if scale.data is None or bias.data is None or node.output.type != x.type or number.ndim > scale.data.ndim:
        return False
    if only_reader(norm.output, rewriter.graph) is not node:
        return False
    changed = [scale.data * number, bias.data * number] if node.op.name == "mul" else [None, bias.data + number]
    for index, data in enumerate(changed):
        if data is not None:
            name = f"{node.output.name}.{('scale', 'bias')[index]}"
            rewriter.set_operand(norm, 1 + index, rewriter.constant(name, data.astype(np.float32)))
    rewriter.absorb(norm, node)
    return True


RULES: RuleTable = {
    "div": (quotient_to_layer_norm,),
    "mul": (quotient_to_layer_norm, scale_into_layer_norm),
    "add": (scale_into_layer_norm,),
}
"""Rules for layer normalization."""
