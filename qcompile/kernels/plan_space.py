"""The choices that a measured search has: register tiles, blocks of pixels and channels, amount of parallel work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from qcompile.kernels import winograd_plan
from qcompile.kernels.amx_kernel import AmxKernel, pixels_of_tile
from qcompile.kernels.conv_plan import (
    Blocking,
    ConvPlan,
    Tiling,
    channel_blocks,
    choose_blocking,
    choose_plan,
    estimated_cycles,
    micro_kernel,
)
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise import choose_depthwise, depthwise_kernel
from qcompile.kernels.isa import Isa
from qcompile.kernels.tuned import is_possible
from qcompile.kernels.winograd_plan import shared_cycles, shared_plan, shared_plans

_LEAST_ITEMS = 8
"""Parallel items that every plan leaves, where the estimate has so many: a plan must not cost other threads theirs."""

_MOST_ROWS_OF_TILE = 8

_MOST_SHARED = 6
"""Plans that share products among those to measure."""


def estimated_plan(workload: ConvWorkload, isa: Isa, l2_bytes: int) -> ConvPlan:
    """Return the plan that is taken where nothing was measured."""
    work = workload.canonical()
    if depthwise_kernel(work, isa) is not None:
        return choose_depthwise(work, isa)
    return shared_plan(work, isa) or choose_plan(work, isa, l2_bytes)


def tile_plans(workload: ConvWorkload, isa: Isa, l2_bytes: int) -> list[ConvPlan]:
    """Return plans that differ in the register tile, the most promising first, each with the blocks it likes.

    Args:
        workload: any.
        isa: instruction set.
        l2_bytes: second-level cache of one core.
    """
    work = workload.canonical()
    first = estimated_plan(work, isa, l2_bytes)
    if depthwise_kernel(work, isa) is not None:
        most = _columns_at_once(work, isa)
        plans = [ConvPlan(Tiling(1, n, 1), first.blocking) for n in range(most - 1, 0, -1)]
        return _distinct([first, *plans], work, isa)
    tilings = list(_tilings(work, isa))
    if not isinstance(micro_kernel(work, isa), AmxKernel):
        tilings.sort(key=lambda tiling: estimated_cycles(work, isa, tiling))
    plans = sorted(shared_plans(work, isa), key=lambda plan: shared_cycles(work, isa, plan))[:_MOST_SHARED]
    plans += [ConvPlan(t, choose_blocking(work, isa, t, l2_bytes)) for t in tilings]
    return _distinct([first, *plans], work, isa)


def block_plans(plan: ConvPlan, workload: ConvWorkload, isa: Isa) -> list[ConvPlan]:
    """Return plans with a plan's register tile and other blocks of parallel work.

    Args:
        plan: of the workload.
        workload: any.
        isa: instruction set.
    """
    work, block, tile = workload.canonical(), plan.blocking, plan.tiling
    least = min(_LEAST_ITEMS, items(plan, work, isa))
    rows, columns, parts = {block.rows}, {block.columns}, {block.blocks}
    for factor in (2, 4):
        rows |= {block.rows * factor, block.rows // factor}
        columns |= {block.columns * factor, block.columns // factor}
        parts |= {block.blocks * factor, -(-block.blocks // factor)}
    found = []
    if depthwise_kernel(work, isa) is not None:
        found = [ConvPlan(tile, Blocking(min(max(r, 1), work.out_height), work.out_width, 1)) for r in rows]
    elif plan.shares_products:
        found = [replace(plan, blocking=replace(block, rows=min(r, work.out_height))) for r in rows if r]
        found += [replace(plan, blocking=replace(block, blocks=p)) for p in parts]
    else:
        most = channel_blocks(work, isa, tile) * work.groups
        pixels = [(_fit(r, tile.rows, work.out_height), block.columns) for r in rows]
        pixels += [(block.rows, _fit(c, tile.columns, work.out_width)) for c in columns]
        found = [ConvPlan(tile, Blocking(r, c, block.blocks)) for r, c in pixels]
        found += [ConvPlan(tile, Blocking(block.rows, block.columns, min(max(p, 1), most))) for p in parts]
    possible = [other for other in sorted(found, key=repr) if is_possible(other, work, isa)]
    others = [other for other in possible if items(other, work, isa) >= least]
    return _distinct([plan, *others], work, isa)[1:]


def items(plan: ConvPlan, work: ConvWorkload, isa: Isa) -> int:
    """Return the parallel items of a plan."""
    if plan.shares_products:
        return winograd_plan.items(plan, work, isa)
    block = plan.blocking
    pixels = work.batch * -(-work.out_height // block.rows) * -(-work.out_width // block.columns)
    if depthwise_kernel(work, isa) is not None:
        return pixels
    return pixels * -(-(channel_blocks(work, isa, plan.tiling) * work.groups) // block.blocks)


def _columns_at_once(work: ConvWorkload, isa: Isa) -> int:
    micro = depthwise_kernel(work, isa)
    assert micro is not None, "the caller asked"
    return min(micro.columns(work.kernel, work.strides[1]), work.out_width)


def _tilings(work: ConvWorkload, isa: Isa) -> Iterator[Tiling]:
    micro = micro_kernel(work, isa)
    if isinstance(micro, AmxKernel):
        yield from _matrix_tilings(work, micro)
        return
    vectors = -(-(work.filters // work.groups) // micro.lanes)
    narrowest = min(tile[1] for tile in micro.tiles)
    for mr, nv in micro.tiles:
        if nv <= max(vectors, narrowest):
            yield from _shapes(work, mr, nv)


def _shapes(work: ConvWorkload, mr: int, nv: int) -> Iterator[Tiling]:
    """Rectangles of at most ``mr`` pixels: rows evenly cut, and as many rows on each other as fit."""
    parts = -(-work.out_width // mr)
    for count in (parts, parts + 1, 2 * parts):
        columns = -(-work.out_width // min(count, work.out_width))
        for rows in {1, min(mr // columns, work.out_height, _MOST_ROWS_OF_TILE)}:
            yield Tiling(-(-work.out_height // -(-work.out_height // rows)), columns, nv)


def _matrix_tilings(work: ConvWorkload, micro: AmxKernel) -> Iterator[Tiling]:
    width, vectors = pixels_of_tile(work.out_width), -(-work.filters // micro.lanes)
    for count, nv in ((2, 2), (4, 1), (1, 2), (2, 1), (3, 1)):
        if nv > vectors:
            continue
        yield Tiling(1, min(count * width, work.out_width), nv)
        if work.out_width == width:
            yield Tiling(min(count, work.out_height), width, nv)


def _fit(wanted: int, unit: int, limit: int) -> int:
    """Round down to a multiple of unit; the whole extent where it is reached."""
    return limit if wanted >= limit else max(unit, wanted // unit * unit)


def _distinct(plans: Iterable[ConvPlan], work: ConvWorkload, isa: Isa) -> list[ConvPlan]:
    return [plan for plan in dict.fromkeys(plans) if is_possible(plan, work, isa)]
