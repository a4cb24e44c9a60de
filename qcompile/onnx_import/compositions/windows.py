"""Sliding windows that are an average of powers."""

from __future__ import annotations

import math

import numpy as np

from qcompile.ir.graph import Value
from qcompile.ops.onnx_node import OnnxNode
from qcompile.ops.pooling import pooled


def _powered(node: OnnxNode, x: Value, exponent: float, name: str) -> Value:
    if exponent == 1.0:
        return x
    return node.add("pow", [x, node.constant("exponent", np.float32(exponent))], name=name)


def _lp_pool(node: OnnxNode) -> Value:
    """Import (Σ |x|^p)^(1/p) as the average over whole windows, times their size."""
    base, order = node.outputs[0], float(node.attr("p", 2))
    size = node.add("abs", [node.value(0)], name=f"{base}.size")
    powers = _powered(node, size, order, f"{base}.powers")
    view = OnnxNode(
        node.graph, node.op_type, node.name, [powers], node.attributes, [f"{base}.mean"], node.opset, node.source
    )
    mean = pooled(view, "avg_pool", count_include_pad=True)
    count = node.constant("count", np.float32(math.prod(node.attr("kernel_shape"))))
    total = node.add("mul", [mean, count], name=base if order == 1.0 else f"{base}.sum")
    return _powered(node, total, 1.0 / order, base)


def _global_lp_pool(node: OnnxNode) -> Value:
    x, base, order = node.value(0), node.outputs[0], float(node.attr("p", 2))
    powers = _powered(node, node.add("abs", [x], name=f"{base}.size"), order, f"{base}.powers")
    axes = tuple(range(2, len(x.shape)))
    name = base if order == 1.0 else f"{base}.sum"
    return _powered(node, node.add("reduce_sum", [powers], name=name, axes=axes, keepdims=True), 1.0 / order, base)


CONVERTERS = {"GlobalLpPool": _global_lp_pool, "LpPool": _lp_pool}
