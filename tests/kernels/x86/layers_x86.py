"""Turns a layer with its operands into a call of its kernel."""

from __future__ import annotations

import conv_reference
import numpy as np

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_packing import pack_conv, pack_table
from qcompile.kernels.conv_plan import ConvPlan
from qcompile.kernels.kernel import Kernel
from qcompile.targets import Target


def stored(array: np.ndarray, activation_dtype: str) -> np.ndarray:
    """An int8 tensor as an instruction set keeps it."""
    if array.dtype == np.int8 and activation_dtype == "uint8":
        return (array.astype(np.int16) + 128).astype(np.uint8)
    return array


def kernel_and_arguments(
    layer: conv_reference.Layer, target: Target, plan: ConvPlan | None = None
) -> tuple[Kernel, list[np.ndarray | None]]:
    """The kernel of a layer, and its eight operands, the output full of noise."""
    work, isa = layer.work, instruction_sets.load(target.isa)
    packed = pack_conv(work, isa, layer.weights, layer.bias, layer.multipliers, layer.scalars, plan)
    dtype = isa.activation_dtype if work.output == "int8" else work.output
    output = np.full((work.batch, work.out_height, work.out_width, work.filters), 77, dtype)
    residual = stored(layer.residual, isa.activation_dtype) if work.residual else None
    if residual is not None:
        residual = conv_reference.among_others(residual, work.residual_pitch, 99)
    table = pack_table(layer.table, isa) if work.table else packed.per_channel if packed.per_channel.size else None
    x = conv_reference.among_others(stored(layer.x, isa.activation_dtype), work.in_pitch, 123)
    output = conv_reference.among_others(output, work.out_pitch, 77)
    constants = [packed.weights, packed.bias, packed.multipliers]
    return plan_conv(work, isa, target, plan), [x, *constants, residual, table, output, packed.parameters]


def expected(layer: conv_reference.Layer, target: Target) -> np.ndarray:
    """The reference's output as the instruction set keeps it."""
    isa = instruction_sets.load(target.isa)
    codes = stored(conv_reference.expected(layer), isa.activation_dtype)
    return conv_reference.among_others(codes, layer.work.out_pitch, 77)
