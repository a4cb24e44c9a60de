"""Layers of 16-bit activations: the kernels of int8, once over each plane; the second run takes in the first's sums.

`qcompile.quant.int16` is the definition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.ir.types import TensorType
from qcompile.kernels.conv_packing import pack_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.parameters import LayerScalars
from qcompile.lower.context import LoweringContext
from qcompile.lower.expressions import ExpressionBuilder
from qcompile.lower.layer_end import with_activation
from qcompile.lower.layers import emit_layer, plain_layer
from qcompile.lower.sources import constant_value
from qcompile.ops.arithmetic import accumulator_scales, channel_multipliers
from qcompile.quant import int16
from qcompile.quant.qparams import INT_RANGE, QParams

_OFFSETS = (0, -128)
"""What makes int8 of a plane: the upper one is that as it is, the lower one lies in 0 to 255."""


def takes_part(node: Node) -> bool:
    """Return whether a layer reads or makes a 16-bit tensor."""
    return node.is_integer and int16.INT16 in (node.inputs[0].dtype, node.output.dtype)


def layer(context: LoweringContext, node: Node, shape: ConvWorkload) -> None:
    """Emit a convolution or product with constant weights that reads or makes 16-bit tensors.

    Args:
        context: takes the steps.
        node: conv2d or dense in integer form.
        shape: the layer without its epilogue.
    """
    if node.attrs.residual or node.attrs.pre_activation is not None:
        raise LoweringError(f"node {node}: no kernel of 16-bit tensors adds a residual or looks up a table")
    if node.inputs[0].dtype != int16.INT16:
        _finished(context, node, shape, (node.inputs[0], node.inputs[2]), None)
        return
    biases = [_bias(node.inputs[2], plane) for plane in int16.split(node.inputs[2].constant())]
    high, low = split(context, node, node.inputs[0])
    sums = _sums(context, node, shape, low, biases[1])
    # Both planes together are the layer's multiply-accumulates.
    context.steps[-1].macs = 0
    _finished(context, node, shape, (high, biases[0]), sums)


def split(context: LoweringContext, node: Node, x: Value) -> tuple[Value, Value]:
    """Return the planes of a 16-bit tensor as int8 tensors, made at their first use.

    Args:
        context: takes the steps.
        node: for the report.
        x: int16.
    """
    if x not in context.planes:
        # Read twice, so that it is not computed in place.
        context.read_buffer(x)
        context.planes[x] = (_plane(context, node, x, 0), _plane(context, node, x, 1))
    return context.planes[x]


def _plane(context: LoweringContext, node: Node, x: Value, which: int) -> Value:
    """Emit one plane of a tensor."""
    result = Value(f"{x.name}.{('high', 'low')[which]}", TensorType("int8", x.shape))
    zero_point = x.qparams.scalar_zero_point if x.qparams is not None else 0
    zero = int(int16.split(np.array(zero_point, np.int32))[which])
    result.qparams = QParams((1.0,), (zero + _OFFSETS[which],))
    result.uses.append((node, 0))

    def element(e: ExpressionBuilder, i: Any) -> Any:
        q = e.cast(e.load(0, *i), "int32")
        if which == 0:
            return e.cast(q >> e.i32(int16.LOW_BITS), "int8")
        return e.cast(e.bit_and(q, e.i32(2**int16.LOW_BITS - 1)) - 128, "int8")

    context.map(_twin(node, [x], result), element)
    if result in context.sources.pending:
        # Kernels read it from memory, and several may.
        context.sources.pending[result].emit()
    return result


def _bias(bias: Value, plane: Any) -> Value:
    value = constant_value(bias.name, np.asarray(plane, np.int32))
    value.qparams = bias.qparams
    return value


def _sums(context: LoweringContext, node: Node, shape: ConvWorkload, x: Value, bias: Value) -> Value:
    """Emit the int32 sums of one 8-bit operand."""
    weight = node.inputs[1].qparams
    if weight is None:
        raise LoweringError(f"node {node}: the weights must be quantized where the activation is")
    raw = Value(f"{node.output.name}.sums", TensorType("int32", node.output.shape))
    axis = len(raw.shape) - 1
    count = raw.shape[axis] if raw.shape else 1
    scales = np.broadcast_to(np.asarray(weight.scale, np.float32), (count,))
    raw.qparams = QParams(tuple(scales.tolist()), (0,), "int32", *INT_RANGE["int32"], axis=axis)
    # Read by the run over the upper plane.
    raw.uses.append((node, 0))
    attrs = replace(node.attrs, residual=False, pre_activation=None, activation="none", divisors=())
    twin = Node(node.op, [x, node.inputs[1], bias], [raw], attrs, node.loc)
    twin.precision = int16.INT16
    plain_layer(context, twin, shape)
    return raw


def _finished(
    context: LoweringContext, node: Node, shape: ConvWorkload, operands: tuple[Value, Value], low: Value | None
) -> None:
    """Emit the sums of an operand and what brings them, with those of a lower plane, to the node's result.

    Args:
        context: takes the step.
        node: the layer.
        shape: of the layer.
        operands: int8 tensor and bias.
        low: int32 sums over the lower plane, or None.
    """
    x, w, result = node.inputs[0].qparams, node.inputs[1].qparams, node.output.qparams
    plane = operands[0].qparams
    if x is None or w is None or plane is None:
        raise LoweringError(f"node {node}: operand 0 and the weights must both be quantized, or neither")
    scales = accumulator_scales(x, w)
    scalars, function = with_activation(node, LayerScalars(x_zero_point=plane.scalar_zero_point))
    output = "float32"
    multipliers = channel_multipliers(node, scales, 1.0 if result is None else result.scalar_scale)
    if result is not None:
        output = result.dtype
        # Scalars are in terms of int8; the block moves them to how the instruction set stores that, not int16.
        moved = 128 if output == int16.INT16 and context.isa.activation_dtype == "uint8" else 0
        low_code, high_code = result.qmin - moved, result.qmax - moved
        zero_point = result.scalar_zero_point - moved
        scalars = replace(scalars, y_zero_point=zero_point, qmin=low_code, qmax=high_code)
    work = replace(shape, precision="int8", output=output, low=low is not None, activation=function)
    weight, bias = node.inputs[1].constant(), operands[1].constant()
    packed = pack_conv(work, context.isa, weight, bias, multipliers, scalars, context.plan(work, node.output))
    twin = Node(node.op, [operands[0], *node.inputs[1:]], [node.output], node.attrs, node.loc)
    twin.precision = int16.INT16 if low is not None else node.precision
    emit_layer(context, twin, work, packed, low, node.output)


def _twin(node: Node, operands: list[Value], result: Value) -> Node:
    """Return a node, of no graph, that stands for a part of a layer in steps and reports."""
    twin = Node(node.op, operands, [result], node.attrs, node.loc)
    twin.precision = int16.INT16
    return twin
