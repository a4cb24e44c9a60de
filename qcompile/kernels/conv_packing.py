"""Puts a convolution's constants into the order and the arithmetic its kernel wants."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.errors import LoweringError
from qcompile.kernels import byte_pairs, winograd
from qcompile.kernels.amx_kernel import AmxKernel
from qcompile.kernels.byte_pairs import BytePairKernel
from qcompile.kernels.conv_plan import (
    ConvPlan,
    Walk,
    choose_tiling,
    groups_of_step,
    micro_kernel,
    places_of_runs,
    walk,
)
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise import channel_order, depthwise_kernel, pack_depthwise
from qcompile.kernels.halves import stored_as
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import in_chunks
from qcompile.kernels.micro_kernel import MicroKernel
from qcompile.kernels.parameters import LayerScalars, parameter_block
from qcompile.kernels.winograd_plan import shared_plan

Array = npt.NDArray[Any]
ACCUMULATOR_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class PackedConv:
    """Constant operands, in the order of the kernel's arguments p1, p2, p3, p7.

    Args:
        weights: int8 or float32, flat, in micro-kernel order.
        bias: int32 or float32, one per padded channel, zero-point correction included.
        multipliers: float32, one per padded channel; empty where nothing is scaled.
        parameters: 16 words, see ``parameters``.
        per_channel: float32, parameters of an activation, one per padded channel, p5; empty where channels have none
            of their own.
    """

    weights: Array
    bias: Array
    multipliers: npt.NDArray[np.float32]
    parameters: npt.NDArray[np.int32]
    per_channel: npt.NDArray[np.float32]


def pack_conv(
    workload: ConvWorkload,
    isa: Isa,
    weights: Array,
    bias: Array | None,
    multipliers: npt.ArrayLike = 0.0,
    scalars: LayerScalars | None = None,
    plan: ConvPlan | None = None,
) -> PackedConv:
    """Pack the constants of a convolution.

    Formula:
        bias'[o] = bias[o] - z * sum(w[o]),  z = the input's zero point as stored

    Args:
        workload: as given to ``plan_conv``.
        isa: as given to ``plan_conv``.
        weights: int8 or float32 [filters, rows, columns, channels / groups] (or [filters, K]).
        bias: int32 (LSB s_x * s_w) or float32 [filters]; None for zeros.
        multipliers: float32 [filters] or scalar, m = s_x * s_w / s_y; s_x * s_w for a float32 output.
        scalars: zero points, clamps, residual and activation parameters.
        plan: as given to ``plan_conv``.

    Raises:
        LoweringError: a weight is too small for the instruction set, or a sum could overflow int32.
    """
    work, micro = workload.canonical(), micro_kernel(workload, isa)
    scalars, plan = scalars or LayerScalars(), plan or shared_plan(work, isa)
    filters, groups = work.filters, work.groups
    kernel = np.asarray(weights).reshape(filters, *work.kernel, work.channels // groups)
    total = np.int32 if work.precision == "int8" else np.float32
    offsets = np.zeros(filters, total) if bias is None else np.asarray(bias).astype(total)
    if work.precision == "int8":
        signed = plan is not None and plan.shares_products
        offsets = _folded_bias(kernel, offsets, scalars.x_zero_point, isa, signed)
    depthwise = depthwise_kernel(workload, isa)
    if depthwise is not None:
        groups, lanes, packed = 1, depthwise.channels, pack_depthwise(workload, isa, kernel)
    else:
        lanes, packed = micro.lanes, _pack_blocks(work, isa, kernel, plan)
    scaled = work.precision == "int8" and work.output != "int32"
    factors = np.broadcast_to(np.asarray(multipliers, np.float32), (filters,))
    own = np.broadcast_to(np.asarray(scalars.per_channel or 0.0, np.float32), (filters,))
    offsets, factors, own = (_padded(values, groups, lanes) for values in (offsets, factors, own))
    if depthwise is not None:
        order = channel_order(workload, isa, len(offsets))
        offsets, factors, own = offsets[order], factors[order], own[order]
    return PackedConv(
        stored_as(work.weights, packed),
        offsets,
        factors if scaled else np.zeros(0, np.float32),
        parameter_block(scalars, isa.activation_dtype, work.residual),
        own if scalars.per_channel else np.zeros(0, np.float32),
    )


def _pack_blocks(work: ConvWorkload, isa: Isa, kernel: Array, plan: ConvPlan | None) -> Array:
    """Weights of a layer that no depthwise kernel computes."""
    micro = micro_kernel(work, isa)
    if plan is not None and plan.shares_products:
        return winograd.pack(kernel, plan.square, plan.tiling.nv, micro.lanes)
    if isinstance(micro, BytePairKernel):
        order = walk(work, micro)
        places = np.array(places_of_runs(work, order))
        return byte_pairs.pack(kernel.reshape(work.filters, -1, order.run), micro.lanes, places)
    nv = (plan.tiling if plan is not None else choose_tiling(work, isa)).nv
    flat = [_pack_group(work, part, nv, micro) for part in np.split(kernel, work.groups)]
    return np.concatenate(flat).astype(micro.b_dtype)


def pack_table(table: npt.NDArray[np.int8], isa: Isa) -> npt.NDArray[np.uint8]:
    """Reorder a table so that stored codes index it and come out of it.

    Args:
        table: int8 [256], entry q + 128 is the result of q.
        isa: decides how codes are stored.
    """
    if isa.activation_dtype == "uint8":
        return np.asarray(table.astype(np.int16) + 128, np.uint8)
    return np.asarray(np.roll(table, 128).view(np.uint8).copy())


def _folded_bias(kernel: Array, bias: Array, zero_point: int, isa: Isa, signed: bool = False) -> npt.NDArray[np.int32]:
    """The bias less what the zero point adds; ``signed``: the kernel reads codes as such, however they are stored."""
    stored = zero_point + (128 if isa.activation_dtype == "uint8" and not signed else 0)
    rows = kernel.reshape(len(kernel), -1).astype(np.int64)
    if rows.min(initial=0) < isa.least_weight:
        raise LoweringError(
            f"a weight is {int(rows.min())}, but {isa.name} needs weights of at least {isa.least_weight}",
            hint="quantize weights to [-127, 127]",
        )
    folded = bias.astype(np.int64) - stored * rows.sum(axis=1)
    reach = np.abs(folded) + np.abs(rows).sum(axis=1) * (255 if stored != zero_point else 128)
    if reach.max(initial=0) > ACCUMULATOR_LIMIT:
        worst = int(reach.argmax())
        raise LoweringError(
            f"output channel {worst} can reach {int(reach[worst])}, past the int32 accumulator",
            hint="keep this layer in float, or calibrate its input with a larger scale",
        )
    return np.asarray(folded, np.int32)


def _padded(values: Array, groups: int, lanes: int) -> Array:
    per_group = values.reshape(groups, -1)
    missing = -per_group.shape[1] % lanes
    return np.asarray(np.pad(per_group, ((0, 0), (0, missing))).reshape(-1).copy())


def _pack_group(work: ConvWorkload, kernel: Array, nv: int, micro: MicroKernel | AmxKernel) -> Array:
    """One group's weights: [block][filter row][tap][chunk of K][channel of the block][K of the chunk]."""
    order, lanes = walk(work, micro), micro.lanes
    runs = kernel.reshape(len(kernel), order.rows * order.taps, order.run)
    missing = -len(runs) % lanes
    runs = np.pad(runs, ((0, missing), (0, 0), (0, order.padded - order.run)))
    chunks = [(size * micro.group, len(list(same))) for size, same in groupby(_chunks(order, micro))]
    packed = []
    for first in range(0, len(runs), nv * lanes):
        block, k, parts = runs[first : first + nv * lanes], 0, []
        for size, count in chunks:
            part = block[:, :, k : k + size * count].reshape(*block.shape[:2], count, size)
            parts.append(part.transpose(1, 2, 0, 3).reshape(len(block[0]), -1))
            k += size * count
        packed.append(np.concatenate(parts, axis=1).reshape(-1))
    return np.concatenate(packed)


def _chunks(order: Walk, micro: MicroKernel | AmxKernel) -> list[int]:
    """Groups in each chunk of a run: those of whole steps, then those of the rest."""
    groups = order.padded // micro.group
    if isinstance(micro, AmxKernel):
        return [1] * groups
    unroll, sizes = groups_of_step(order, micro), micro.chunks
    steps, rest = divmod(groups, unroll)
    return in_chunks(unroll, sizes) * steps + in_chunks(rest, sizes)
