"""Convolutions, products with constant weights and transposed convolutions: constants, scalars, steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.ir.types import TensorType
from qcompile.kernels import byte_pairs
from qcompile.kernels.activation import ACTIVATIONS
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_packing import PackedConv, pack_conv, pack_table
from qcompile.kernels.conv_workload import LEAST_PIXELS, ConvWorkload
from qcompile.kernels.conv_workload import dense as dense_workload
from qcompile.kernels.isa import Isa
from qcompile.kernels.parameters import RESIDUAL_REACH, LayerScalars
from qcompile.lower import int16
from qcompile.lower.families import look_up
from qcompile.lower.packed import packed_kind, packed_product, unpacked_constant
from qcompile.lower.storage import Buffer
from qcompile.ops.arithmetic import accumulator_scales, activation_op, activation_table, epilogue_activation
from qcompile.ops.elementwise import Unary
from qcompile.ops.unpack_float import KINDS
from qcompile.quant import requantize as rq
from qcompile.quant.qparams import QParams

if TYPE_CHECKING:
    from qcompile.lower.context import LoweringContext

Array = npt.NDArray[Any]

_MOST_SCALED = 2.0**31 * (1 - 2.0**-20)
_ROOM = 0.5
"""Magnitude of scaled sums, less what float32 may round up, and the share of it that leaves a residual room."""


@dataclass(frozen=True)
class Epilogue:
    """What follows the sums of a layer, in the terms of the kernels.

    Args:
        fields: of the workload: precision, output, residual, table, activation.
        multipliers: float32, per output channel or one.
        scalars: zero points and clamps.
        table: of a fused activation, 256 codes by q + 128, or None.
        gain: bound of what an activation of scaled sums makes of them, as a factor.
    """

    fields: dict[str, Any]
    multipliers: Array
    scalars: LayerScalars
    table: npt.NDArray[np.int8] | None = None
    gain: float = 1.0


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
    """Emit the kernel of a layer, and an elementwise step for an activation that no epilogue has."""
    if not context.wanted(node.output):
        return
    if int16.takes_part(node):
        int16.layer(context, node, shape)
        return
    separate = not node.is_integer and node.attrs.activation not in ACTIVATIONS
    if packed_kind(node) == "groups":
        target = Value(f"{node.output.name}.sum", node.output.type) if separate else node.output
        packed_product(context, node, target, "none" if separate else node.attrs.activation)
        if separate:
            _activate(context, node, target)
        return
    end = epilogue(node, fuse_activation=not separate)
    target = node.output
    if separate:
        target = Value(f"{node.output.name}.sum", node.output.type.with_dtype("float32"))
    weight, bias = constants(node)
    work = replace(_easier(shape, end, context.isa, weight, bias), **end.fields, weights=packed_kind(node))
    work = replace(work, byte_pairs=_has_byte_pairs(work, weight, context.isa))
    packed = pack_conv(work, context.isa, weight, bias, end.multipliers, end.scalars, context.plan(work, node.output))
    residual = node.inputs[3] if node.attrs.residual else None
    emit_layer(context, node, work, packed, residual, target, end.table)
    if separate:
        _activate(context, node, target)


def _easier(work: ConvWorkload, end: Epilogue, isa: Isa, weight: Array, bias: Array) -> ConvWorkload:
    """Say what the epilogue of an int8 result may leave out, on an instruction set that gains by it."""
    if not isa.eases or end.fields["output"] != "int8":
        return work
    scalars, stored = end.scalars, 128 if isa.activation_dtype == "uint8" else 0
    from_zero = scalars.y_zero_point + stored == 0
    return replace(work, bounded=_is_bounded(end, weight, bias), from_zero=from_zero)


def _is_bounded(end: Epilogue, weight: Array, bias: Array) -> bool:
    """Return whether sums stay within int32 when they are scaled, with room for a residual where there is one."""
    rows = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1)
    reach = np.minimum(255 * rows + np.abs(bias.astype(np.int64)), 2**31)
    scaled = float(np.max(reach * np.abs(np.asarray(end.multipliers, np.float64)), initial=0.0)) * end.gain
    return scaled < (_ROOM if end.fields.get("residual") else 1.0) * _MOST_SCALED


def _has_byte_pairs(work: ConvWorkload, weight: Array, isa: Isa) -> bool:
    """Return whether the weights allow sums of two products of bytes, and enough pixels share them."""
    pixels = work.batch * work.out_height * work.out_width
    if isa.byte_pairs is None or work.precision != "int8" or work.groups > 1 or pixels < LEAST_PIXELS:
        return False
    runs = weight.reshape(len(weight), work.kernel[0], -1)
    return byte_pairs.pays(runs, isa.byte_pairs.lanes)


def constants(node: Node) -> tuple[Array, Array]:
    """Return weight and bias.

    Raises:
        LoweringError: they are computed at run time.
    """
    weight, bias = node.inputs[1], node.inputs[2]
    if packed_kind(node) in KINDS:
        weight = unpacked_constant(weight)
    for value, name in ((weight, "weights"), (bias, "bias")):
        if value.data is None:
            raise LoweringError(
                f"node {node}: the {name} ({value.name}) are computed at run time; kernels take constants"
            )
    return weight.constant(), bias.constant()


def epilogue(node: Node, *, fuse_activation: bool = True) -> Epilogue:
    """Translate what follows a node's sums; the integer forms are `ops.arithmetic.finish_accumulator`."""
    attrs = node.attrs
    if not node.is_integer:
        kind = node.output.dtype
        fields = {"precision": kind, "output": kind if fuse_activation else "float32", "residual": attrs.residual}
        fields["activation"] = attrs.activation if fuse_activation else "none"
        return Epilogue(fields, np.zeros(1, np.float32), LayerScalars(alpha=attrs.alpha, beta=attrs.beta))
    x, w, result = node.inputs[0].qparams, node.inputs[1].qparams, node.output.qparams
    if x is None or w is None:
        raise LoweringError(f"node {node}: operand 0 and the weights must both be quantized, or neither")
    scales = accumulator_scales(x, w)
    scalars, function = with_activation(node, LayerScalars(x_zero_point=x.scalar_zero_point))
    if result is None or (result.dtype == "int32" and result.per_channel):
        output = "float32" if result is None else "int32"
        if attrs.residual or attrs.pre_activation is not None:
            raise LoweringError(f"node {node}: a residual or a table needs an int8 result")
        return Epilogue({"precision": "int8", "output": output, "activation": function}, scales, scalars)
    if result.dtype != "int8":
        raise LoweringError(f"node {node}: no kernel stores {result.dtype} results")
    return _integer_epilogue(node, scales, scalars, result, function)


def with_activation(node: Node, scalars: LayerScalars) -> tuple[LayerScalars, str]:
    """Return scalars with the parameters of what a layer applies to its scaled sums, and its name or "none"."""
    function = epilogue_activation(node)
    if function is None:
        return scalars, "none"
    return replace(scalars, alpha=function.alpha, beta=function.beta, slopes=function.slopes), function.name


def _integer_epilogue(node: Node, scales: Array, scalars: LayerScalars, result: QParams, activation: str) -> Epilogue:
    attrs = node.attrs
    before = attrs.pre_activation or result
    scalars = replace(scalars, y_zero_point=before.scalar_zero_point, qmin=before.qmin, qmax=before.qmax)
    fields: dict[str, Any] = {"precision": "int8", "output": "int8", "residual": attrs.residual}
    fields["activation"] = activation
    fields["full_range"] = (before.qmin, before.qmax) == (-128, 127)
    multipliers = rq.multiplier(scales, before.scalar_scale)
    if attrs.residual:
        wide, other = rq.wide_qparams(before), node.inputs[3].qparams
        if other is None or other.per_channel:
            raise LoweringError(f"node {node}: the residual operand must be quantized per tensor")
        multipliers = rq.multiplier(scales, wide.scalar_scale)
        factor = rq.add_constants(wide, other, before).multipliers[1]
        fields["bounded_residual"] = abs(factor) <= RESIDUAL_REACH
        scalars = replace(scalars, residual_zero_point=other.scalar_zero_point, residual_factor=factor)
    table = None
    if attrs.pre_activation is not None:
        table = activation_table(attrs, before, result)
        fields["table"] = True
    function = epilogue_activation(node)
    return Epilogue(fields, multipliers, scalars, table, 1.0 if function is None else function.gain)


def emit_layer(
    context: LoweringContext,
    node: Node,
    work: ConvWorkload,
    packed: PackedConv,
    residual: Value | None,
    output: Value,
    table: npt.NDArray[np.int8] | None = None,
) -> Buffer:
    """Append the step of a layer and return the buffer it writes."""
    source, pitch = context.pixels(node.inputs[0])
    other, beside = context.pixels(residual) if residual is not None else (None, work.filters)
    result, step = context.result_pixels(output)
    work = replace(work, in_pitch=pitch if pitch != work.channels else 0)
    work = replace(work, out_pitch=step if step != work.filters else 0)
    work = replace(work, residual_pitch=beside if beside != work.filters else 0)
    plan = context.plan(work, node.output, emitted=True)
    kernel = context.kernel((work.canonical(), plan), lambda: plan_conv(work, context.isa, context.target, plan))
    add = context.weights.add
    looked_up = add(packed.slopes) if packed.slopes.size else None
    if table is not None:
        looked_up = add(pack_table(table, context.isa))
    args = [
        source,
        add(packed.weights),
        add(packed.bias),
        add(packed.multipliers) if packed.multipliers.size else None,
        other,
        looked_up,
        result,
        add(packed.parameters),
    ]
    # An epilogue reads the residual exactly where it stores; a table's second look at the output does no harm.
    # Sums over a lower plane are wider than what is stored, unless that is float.
    same = (not work.low or work.output == "float32") and not (work.out_pitch or work.residual_pitch)
    share = (other,) if other is not None and other is not source and same else ()
    precision = f"{work.weights} weights" if work.weights else None
    context.emit(node, kernel, args, 6, share, work.macs, precision)
    return result


def _activate(context: LoweringContext, node: Node, before: Value) -> None:
    """Emit a real activation as a step of its own."""
    op, parameters = activation_op(node.attrs.activation, node.attrs.alpha, node.attrs.beta)
    if not isinstance(op, Unary):
        raise LoweringError(f"node {node}: no code for the activation {node.attrs.activation}")
    twin = Node(op, [before], [node.output], parameters, node.loc)
    op.lower(twin, context)


# -- transposed convolution ----------------------------------------------------------------------------------

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
    end = epilogue(node) if node.is_integer else None
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
        end: Epilogue | None,
        phase: tuple[int, int],
    ) -> None:
        self.context, self.node, self.products, self.phase = context, node, products, phase
        self.result, self.end = result, end
        self.kernel = node.inputs[1].shape[1:3]
        self.outputs = node.inputs[1].shape[0]

    def emit(self, buffer: Buffer) -> None:
        """Append the step."""
        from qcompile.kernels import expression as ex
        from qcompile.lower.expressions import ExpressionBuilder, flat_offset

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
