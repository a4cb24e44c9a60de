"""Turns a layer with its operands into a call of its kernel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import aarch64_runner
import conv_reference
import numpy as np

from qcompile.kernels import isa as instruction_sets
from qcompile.kernels.conv import plan_conv
from qcompile.kernels.conv_packing import pack_conv, pack_table
from qcompile.targets import Target


def case(layer: conv_reference.Layer, target: Target, ranges: Sequence[tuple[int, int | None]]) -> aarch64_runner.Case:
    """The kernel of a layer with its packed operands; an end of None is the last tile."""
    work, isa = layer.work, instruction_sets.load(target.isa)
    kernel = plan_conv(work, isa, target)
    packed = pack_conv(work, isa, layer.weights, layer.bias, layer.multipliers, layer.scalars)
    output = np.zeros((work.batch, work.out_height, work.out_width, work.filters), work.output)
    output = conv_reference.among_others(output, work.out_pitch, 0)
    x = conv_reference.among_others(layer.x, work.in_pitch, 123)
    residual = conv_reference.among_others(layer.residual, work.residual_pitch, 99) if work.residual else None
    table = pack_table(layer.table, isa) if work.table else packed.per_channel if packed.per_channel.size else None
    constants = [packed.weights, packed.bias, packed.multipliers]
    arguments = [x, *constants, residual, table, output, packed.parameters]
    whole = [(begin, kernel.tiles if end is None else end) for begin, end in ranges]
    return aarch64_runner.Case(kernel, arguments, [6], whole)


def split_at_random(rng: np.random.Generator, layer: conv_reference.Layer, target: Target) -> aarch64_runner.Case:
    """The same in up to five calls in any order."""
    whole = case(layer, target, [(0, None)])
    tiles = whole.kernel.tiles
    cuts = sorted({0, tiles, *(int(cut) for cut in rng.integers(0, tiles + 1, 4))})
    pairs = list(itertools.pairwise(cuts))
    whole.ranges = [pairs[i] for i in rng.permutation(len(pairs))]
    return whole
