"""Layers with constant weights, from their workload to a step: constants, epilogue, kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import LoweringError
from qcompile.ir.graph import Node, Value
from qcompile.kernels import byte_pairs
from qcompile.kernels.activation import ACTIVATIONS
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_packing import PackedConv, pack_conv, pack_table
from qcompile.kernels.conv_workload import LEAST_PIXELS, ConvWorkload
from qcompile.kernels.isa import Isa
from qcompile.lower.context import LoweringContext
from qcompile.lower.layer_end import LayerEnd, is_bounded, layer_end
from qcompile.lower.packed import packed_kind, packed_product, unpacked_constant
from qcompile.lower.storage import Buffer
from qcompile.ops.arithmetic import activation_op
from qcompile.ops.elementwise import Unary
from qcompile.ops.unpack_float import KINDS
from qcompile.quant.scaled import DIVIDED

Array = npt.NDArray[Any]


def plain_layer(context: LoweringContext, node: Node, shape: ConvWorkload) -> None:
    """Emit the kernel of a layer, and an elementwise step for an activation that no epilogue has.

    Args:
        context: takes the steps.
        node: conv2d or dense, of 8-bit or real activations.
        shape: the layer without its epilogue.
    """
    separate = not node.is_integer and node.attrs.activation not in ACTIVATIONS
    grouped = packed_kind(node) == "groups"
    target = node.output
    if separate:
        kind = node.output.dtype if grouped else "float32"
        target = Value(f"{node.output.name}.sum", node.output.type.with_dtype(kind))
    if grouped:
        packed_product(context, node, target, "none" if separate else node.attrs.activation)
    else:
        _product(context, node, shape, layer_end(node, fuse_activation=not separate), target)
    if separate:
        _activate(context, node, target)


def _product(context: LoweringContext, node: Node, shape: ConvWorkload, end: LayerEnd, target: Value) -> None:
    weight, bias = constants(node)
    work = replace(_easier(shape, end, context.isa, weight, bias), **end.fields, weights=packed_kind(node))
    work = replace(work, byte_pairs=_has_byte_pairs(work, weight, context.isa))
    packed = pack_conv(work, context.isa, weight, bias, end.multipliers, end.scalars, context.plan(work, node.output))
    residual = node.inputs[3] if node.attrs.residual else None
    emit_layer(context, node, work, packed, residual, target, end.table)


def _easier(work: ConvWorkload, end: LayerEnd, isa: Isa, weight: Array, bias: Array) -> ConvWorkload:
    """Say what the epilogue of an int8 result may leave out, on an instruction set that gains by it."""
    if not isa.eases or end.fields["output"] != "int8":
        return work
    scalars, stored = end.scalars, 128 if isa.activation_dtype == "uint8" else 0
    from_zero = scalars.y_zero_point + stored == 0
    return replace(work, bounded=is_bounded(end, weight, bias), from_zero=from_zero)


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


def emit_layer(
    context: LoweringContext,
    node: Node,
    work: ConvWorkload,
    packed: PackedConv,
    residual: Value | None,
    output: Value,
    table: npt.NDArray[np.int8] | None = None,
) -> Buffer:
    """Append the step of a layer and return the buffer it writes.

    Args:
        context: takes the step.
        node: gives operand 0, and what reports say.
        work: the layer with its epilogue.
        packed: its constants as the kernel reads them.
        residual: what joins the sums: the operand that is added, or sums over a lower plane; None for nothing.
        output: the tensor to write.
        table: of a fused activation, 256 codes by q + 128; None for none.
    """
    source, pitch = context.pixels(node.inputs[0])
    other, beside = context.pixels(residual) if residual is not None else (None, work.filters)
    result, step = context.result_pixels(output)
    work = replace(work, in_pitch=pitch if pitch != work.channels else 0)
    work = replace(work, out_pitch=step if step != work.filters else 0)
    work = replace(work, residual_pitch=beside if beside != work.filters else 0)
    plan = context.plan(work, node.output, emitted=True)
    kernel = context.kernel((work.canonical(), plan), lambda: plan_conv(work, context.isa, context.target, plan))
    add = context.weights.add
    looked_up = add(packed.per_channel) if packed.per_channel.size else None
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
    if node.attrs.activation in DIVIDED:
        raise LoweringError(
            f"node {node}: no code for {node.attrs.activation} of real numbers",
            hint="the quantize pass makes the plain activation and a multiplication of it",
        )
    op, parameters = activation_op(node.attrs.activation, node.attrs.alpha, node.attrs.beta)
    if not isinstance(op, Unary):
        raise LoweringError(f"node {node}: no code for the activation {node.attrs.activation}")
    twin = Node(op, [before], [node.output], parameters, node.loc)
    op.lower(twin, context)
