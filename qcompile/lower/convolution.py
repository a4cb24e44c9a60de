"""Convolutions and products with constant weights, as workloads."""

from __future__ import annotations

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.conv_workload import dense as dense_workload
from qcompile.lower import int16
from qcompile.lower.context import LoweringContext
from qcompile.lower.layers import plain_layer


def conv2d(context: LoweringContext, node: Node) -> None:
    """Emit a convolution or depthwise convolution."""
    attrs, x, weight = node.attrs, node.inputs[0], node.inputs[1]
    if attrs.layout != "NHWC":
        raise LoweringError(
            f"node {node} is in NCHW layout; kernels exist for NHWC",
            hint="run the pass to-nhwc before lowering",
        )
    n, h, w, channels = x.shape
    filters, rows, columns, _ = weight.shape
    kernel = (rows, columns)
    geometry = (attrs.strides, attrs.dilations, attrs.pads, attrs.groups)
    layer(context, node, ConvWorkload(n, h, w, channels, filters, kernel, *geometry))


def dense(context: LoweringContext, node: Node) -> None:
    """Emit a product with constant weights."""
    x, weight = node.inputs[0], node.inputs[1]
    rows = x.type.size // max(1, x.shape[-1])
    layer(context, node, dense_workload(rows, x.shape[-1], weight.shape[0]))


def layer(context: LoweringContext, node: Node, shape: ConvWorkload) -> None:
    """Emit a convolution or product with constant weights.

    Args:
        context: takes the steps.
        node: conv2d or dense.
        shape: the layer without its epilogue.
    """
    if not context.wanted(node.output):
        return
    emit = int16.layer if int16.takes_part(node) else plain_layer
    emit(context, node, shape)
