"""Transposed convolutions: products of every pixel with all taps, then sums of those that meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.ir.types import TensorType
from qcompile.kernels import expression as ex
from qcompile.kernels.conv_packing import pack_conv
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.parameters import LayerScalars
from qcompile.lower.context import LoweringContext
from qcompile.lower.expressions import ExpressionBuilder
from qcompile.lower.families import look_up
from qcompile.lower.layer_end import LayerEnd, layer_end
from qcompile.lower.layers import constants, emit_layer
from qcompile.lower.offsets import flat_offset
from qcompile.lower.packed import packed_kind
from qcompile.lower.storage import Buffer
from qcompile.ops.arithmetic import activation_op, epilogue_activation
from qcompile.ops.elementwise import Unary

_MOST_PHASES = 16


def conv_transpose2d(context: LoweringContext, node: Node) -> None:
    """Emit one product of every pixel with all taps, then sums of the products that meet in an output pixel.

    Output pixels whose position is the same modulo the stride meet the same taps, so each such phase is an
    elementwise step that knows its taps.
    """
    attrs = node.attrs
    if attrs.layout != "NHWC":
        raise LoweringError(f"node {node} is in NCHW layout; kernels exist for NHWC", hint="run the pass to-nhwc")
    if attrs.residual:
        raise LoweringError(f"node {node}: no kernel adds a residual to a transposed convolution")
    if not context.wanted(node.output):
        return
    products = _products(context, node)
    phases = [(y, x) for y in range(attrs.strides[0]) for x in range(attrs.strides[1])]
    if len(phases) > _MOST_PHASES:
        raise LoweringError(f"node {node}: strides {attrs.strides} are too large for a transposed convolution")
    end = layer_end(node) if node.is_integer else None
    result = node.output
    if end is not None and end.table is not None:
        result = Value(f"{node.output.name}.before", node.output.type)
        result.qparams = attrs.pre_activation
    buffer = context.new_buffer(result)
    for phase in phases:
        _Phase(context, node, products, result, end, phase).emit(buffer)
    if end is not None and end.table is not None:
        look_up(context, node, result, end.table)


def _products(context: LoweringContext, node: Node) -> Value:
    """Emit x · weight of every tap: [N, H, W, groups · taps · outputs of a group], int32 or float32."""
    x = node.inputs[0]
    weight, _ = constants(node)
    outputs, kh, kw, per_group = weight.shape
    groups = node.attrs.groups
    n, h, w, channels = x.shape
    # Within a group: taps, then outputs, so that the outputs of one tap lie side by side.
    by_tap = weight.reshape(groups, outputs // groups, kh * kw, per_group).transpose(0, 2, 1, 3)
    filters = outputs * kh * kw
    kind, output = ("int8", "int32") if node.is_integer else ("float32", "float32")
    stored = packed_kind(node)
    work = ConvWorkload(n, h, w, channels, filters, groups=groups, precision=kind, output=output, weights=stored)
    zero_point = x.qparams.scalar_zero_point if x.qparams is not None else 0
    flat = np.ascontiguousarray(by_tap).reshape(filters, 1, 1, per_group)
    scalars = LayerScalars(x_zero_point=zero_point)
    packed = pack_conv(work, context.isa, flat, None, 0.0, scalars, context.plan(work, node.output))
    products = Value(f"{node.output.name}.products", TensorType(output, (n, h, w, filters)))
    emit_layer(context, node, work, packed, None, products)
    return products


class _Phase:
    """The output pixels (y, x) with y ≡ phase[0] and x ≡ phase[1] modulo the strides."""

    def __init__(
        self,
        context: LoweringContext,
        node: Node,
        products: Value,
        result: Value,
        end: LayerEnd | None,
        phase: tuple[int, int],
    ) -> None:
        self.context, self.node, self.products, self.phase = context, node, products, phase
        self.result, self.end = result, end
        self.kernel = node.inputs[1].shape[1:3]
        self.outputs = node.inputs[1].shape[0]

    def emit(self, buffer: Buffer) -> None:
        """Append the step."""
        attrs, shape = self.node.attrs, self.node.output.shape
        counts = [-(-(shape[1 + a] - self.phase[a]) // attrs.strides[a]) for a in (0, 1)]
        if min(counts) < 1:
            return
        twin = Node(self.node.op, [self.products], [self.result], attrs, self.node.loc)
        e = ExpressionBuilder(twin, self.result, self.context.sources)
        n, y, x, o = (ex.index(axis) for axis in range(4))
        element = self._finished(e, self._sum(e, n, y, x, o), o)
        rows = y * attrs.strides[0] + self.phase[0]
        columns = x * attrs.strides[1] + self.phase[1]
        store = flat_offset(shape, (n, rows, columns, o))
        extents = (shape[0], counts[0], counts[1], shape[3])
        self.context.emit_map(self.node, element, buffer, self.result, extents, store)

    def _sum(self, e: Any, n: Any, y: Any, x: Any, o: Any) -> Any:
        """Σ products over the taps of this phase that meet a pixel."""
        kind = self.products.dtype
        total = None
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                places = [self._source(0, row, y), self._source(1, column, x)]
                if None in places:
                    continue
                (at_y, inside_y), (at_x, inside_x) = places  # type: ignore[misc]
                channel = self._channel(row * self.kernel[1] + column, o)
                inside = [*inside_y, *inside_x]
                if inside:
                    condition = inside[0]
                    for other in inside[1:]:
                        condition = e.and_(condition, other)
                    part = e.load_or(0, (n, at_y, at_x, channel), condition, 0)
                else:
                    part = e.load(0, n, at_y, at_x, channel)
                total = part if total is None else total + part
        return total if total is not None else (e.i32(0) if kind == "int32" else e.f32(0.0))

    def _source(self, axis: int, tap: int, i: Any) -> tuple[Any, Sequence[Any]] | None:
        """Return the input index that a tap meets at output stride·i + phase, and when it exists."""
        attrs = self.node.attrs
        stride, extent = attrs.strides[axis], self.node.inputs[0].shape[1 + axis]
        offset = self.phase[axis] + attrs.pads[axis] - tap * attrs.dilations[axis]
        if offset % stride:
            return None
        shift = offset // stride
        last = -(-(self.node.output.shape[1 + axis] - self.phase[axis]) // stride) - 1
        if shift + last < 0 or shift >= extent:
            return None
        inside = []
        if shift < 0:
            inside.append(i + shift >= 0)
        if shift + last >= extent:
            inside.append(i + shift < extent)
        return i + shift, inside

    def _channel(self, tap: int, o: Any) -> Any:
        """Return the position of a tap's product for output channel o."""
        groups = self.node.attrs.groups
        per_group = self.outputs // groups
        taps = self.kernel[0] * self.kernel[1]
        if groups == 1:
            return o + tap * per_group
        if per_group == 1:
            return o * taps + tap
        return (o // per_group) * (taps * per_group) + tap * per_group + o % per_group

    def _finished(self, e: Any, total: Any, o: Any) -> Any:
        """Add the bias and bring the sum to the result's form."""
        node, attrs, constant = self.node, self.node.attrs, self.context.constant
        _, bias = constants(node)
        total = total + e.at(constant(bias), o)
        if self.end is None:
            if attrs.activation == "none":
                return total
            op, parameters = activation_op(attrs.activation, attrs.alpha, attrs.beta)
            if not isinstance(op, Unary):
                raise LoweringError(f"node {node}: no code for the activation {attrs.activation}")
            return op.expression(e, parameters, total)
        if self.end.fields["output"] == "int32":
            return total
        factors = np.broadcast_to(self.end.multipliers, (self.outputs,))
        m = e.at(constant(np.ascontiguousarray(factors)), o)
        function = epilogue_activation(node)
        if function is not None:
            scaled = function.expression(e, e.cast(total, "float32") * m)
            return scaled if self.result.qparams is None else e.scaled(scaled)
        return e.cast(total, "float32") * m if self.result.qparams is None else e.requantize(total, m)
