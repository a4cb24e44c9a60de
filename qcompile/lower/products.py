"""Layers whose activations were quantized at run time: the kernels of int8, and a correction for the zero point."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompile import ops
from qcompile.ir.graph import Node, Value
from qcompile.ir.types import TensorType
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.conv_workload import dense as dense_workload
from qcompile.lower.context import LoweringContext
from qcompile.lower.convolution import layer
from qcompile.lower.expressions import ExpressionBuilder
from qcompile.lower.sources import constant_value
from qcompile.ops.conv2d import Conv2dAttrs
from qcompile.ops.dense import DenseAttrs
from qcompile.quant.qparams import INT_RANGE, QParams

_ONE = QParams((1.0,))


def dense_integer(context: LoweringContext, node: Node) -> None:
    """Emit a product with constant weights."""
    q, weight = node.inputs[0], node.inputs[1]
    rows = q.type.size // max(1, q.shape[-1])
    work = dense_workload(rows, q.shape[-1], weight.shape[0])
    _product(context, node, "dense", DenseAttrs(), work)


def conv2d_integer(context: LoweringContext, node: Node) -> None:
    """Emit a convolution; padding is written out, since its code is known at run time only."""
    attrs, q, weight = node.attrs, node.inputs[0], node.inputs[1]
    n, height, width, channels = q.shape
    top, left, bottom, right = attrs.pads
    work = ConvWorkload(
        n,
        height + top + bottom,
        width + left + right,
        channels,
        weight.shape[0],
        (weight.shape[1], weight.shape[2]),
        attrs.strides,
        attrs.dilations,
        groups=attrs.groups,
    )
    plain = Conv2dAttrs(strides=attrs.strides, dilations=attrs.dilations, groups=attrs.groups, layout="NHWC")
    _product(context, node, "conv2d", plain, work, attrs.pads)


def _product(
    context: LoweringContext,
    node: Node,
    op: str,
    attrs: Any,
    work: ConvWorkload,
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> None:
    if not context.wanted(node.output):
        return
    weight = constant_value(node.inputs[1].name, node.inputs[1].constant())
    weight.qparams = QParams((1.0,), (0,), "int8", -127, 127)
    bias = constant_value(f"{node.inputs[1].name}.bias", np.zeros(weight.shape[0], np.int32))
    bias.qparams = QParams((1.0,), (0,), "int32", *INT_RANGE["int32"])
    raw = Value(f"{node.output.name}.sums", node.output.type)
    raw.qparams = QParams((1.0,) * weight.shape[0], (0,), "int32", *INT_RANGE["int32"], axis=len(raw.shape) - 1)
    raw.uses.append((node, 0))
    twin = Node(ops.get(op), [_codes(context, node, pads), weight, bias], [raw], attrs, node.loc)
    layer(context, twin, work)
    _correct(context, node, raw)


def _shift(q: Value) -> int:
    """Return what takes the codes of a tensor to int8."""
    return 128 if q.dtype == "uint8" else 0


def _codes(context: LoweringContext, node: Node, pads: tuple[int, int, int, int]) -> Value:
    """Return the operand as an int8 tensor that is stored as kernels want it, padded; made at its first use."""
    q, zero_point = node.inputs[0], node.inputs[2]
    key = (q, zero_point if any(pads) else None, pads)
    if key not in context.codes:
        top, left, bottom, right = pads
        shape = list(q.shape)
        if any(pads):
            shape[1], shape[2] = shape[1] + top + bottom, shape[2] + left + right
        result = Value(f"{q.name}.codes", TensorType("int8", tuple(shape)))
        result.qparams = _ONE
        result.uses.append((node, 0))

        def element(e: ExpressionBuilder, i: Any) -> Any:
            if not any(pads):
                return e.cast(e.cast(e.load(0, *i), "int32") - _shift(q), "int8")
            place = (i[0], i[1] - top, i[2] - left, i[3])
            inside = None
            for at, extent, ends in ((place[1], q.shape[1], (top, bottom)), (place[2], q.shape[2], (left, right))):
                for wanted, holds in ((ends[0], at >= 0), (ends[1], at < extent)):
                    if wanted:
                        inside = holds if inside is None else e.and_(inside, holds)
            fill = e.cast(e.load(1, *e.broadcast(1, i)), q.dtype)
            return e.cast(e.cast(e.load_or(0, place, inside, fill), "int32") - _shift(q), "int8")

        context.map(Node(node.op, [q, zero_point], [result], node.attrs, node.loc), element)
        if result in context.sources.pending:
            context.sources.pending[result].emit()
        context.codes[key] = result
    return context.codes[key]


def _correct(context: LoweringContext, node: Node, raw: Value) -> None:
    """Emit Σ q·w − zero_point · Σ w."""
    weight = node.inputs[1].constant()
    totals = context.constant(weight.reshape(len(weight), -1).sum(axis=1, dtype=np.int64).astype(np.int32))
    shift = _shift(node.inputs[0])

    def element(e: ExpressionBuilder, i: Any) -> Any:
        zero_point = e.load(1, *e.broadcast(1, i))
        return e.load(0, *i) - (zero_point - shift) * e.at(totals, i[-1])

    context.map(Node(node.op, [raw, node.inputs[2]], [node.output], node.attrs, node.loc), element)
