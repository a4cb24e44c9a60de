"""Chooses where outputs of a 3x3 convolution share products (``winograd``), and how such a layer is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from qcompile.kernels.conv_plan import TILE_CYCLES, Blocking, ConvPlan, Tiling, choose_tiling, estimated_cycles, pieces
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import PairMicroKernel
from qcompile.kernels.winograd import MOST_WEIGHTS, SQUARES, fits, products, tiles, weight_bytes

_GAIN = 0.85
"""Estimated time, as a share of the plain one, below which the larger weights are worth it."""

_LEAST_TILES = 12
"""Tiles that a block of pixels should have, so that they share the reading of weights."""

_LEAST_ROWS = 4
"""Tiles of pixels in a register tile: with fewer, measured times exceed the estimate."""

_WANTED_ITEMS = 16
_ITEM_MACS = 400_000


@dataclass(frozen=True)
class _Costs:
    """What measurements say.

    Attributes:
        most_weights: bytes of transformed weights: more would come from far, and make programs large.
        pixel_cycles: for each product of a tile, to transform a vector of pixels.
        result_cycles: for each product of a tile, to sum a vector of results.
        weights_rate: bytes of weights that arrive in a cycle.
        equal_blocks: blocks of pixels are better equal than small.
    """

    most_weights: int
    pixel_cycles: float
    result_cycles: float
    weights_rate: float
    equal_blocks: bool


_SEPARATE = _Costs(MOST_WEIGHTS, 3.0, 4.0, math.inf, equal_blocks=True)
"""Where a product and its sum are two instructions: the others hide behind them."""

_AT_ONCE = _Costs(3 << 19, 8.0, 6.0, 12.0, equal_blocks=False)
"""Where they are one: then all that moves through the second-level cache counts."""


def _costs(micro: PairMicroKernel) -> _Costs:
    return _SEPARATE if micro.add_products is None else _AT_ONCE


def shared_plan(workload: ConvWorkload, isa: Isa) -> ConvPlan | None:
    """Return the best plan that shares products, where it is estimated to be worth it; it depends on nothing else.

    Args:
        workload: any.
        isa: instruction set.
    """
    work = workload.canonical()
    plans = list(shared_plans(work, isa))
    if not plans:
        return None
    best = min(plans, key=lambda plan: (shared_cycles(work, isa, plan), -plan.tiling.columns))
    plain = estimated_cycles(work, isa, choose_tiling(work, isa))
    return best if shared_cycles(work, isa, best) < _GAIN * plain else None


def shared_plans(work: ConvWorkload, isa: Isa) -> Iterator[ConvPlan]:
    """Yield the plans that share products and whose weights are not too large; `work` is canonical."""
    if isa.pairs is None:
        return
    vectors, costs = -(-work.filters // isa.pairs.lanes), _costs(isa.pairs)
    for square in SQUARES:
        if not fits(work, square) or weight_bytes(work, square) > costs.most_weights:
            continue
        rows = _tile_rows(work, square, equal=costs.equal_blocks)
        height = min(rows * square[0], work.out_height)
        count = rows * tiles(work, square)[1]
        for mr, nv in isa.pairs.tiles:
            if nv <= vectors and _LEAST_ROWS <= mr <= count:
                blocks = _blocks(work, square, rows, -(-vectors // nv))
                yield ConvPlan(Tiling(1, mr, nv), Blocking(height, work.out_width, blocks), square)


def is_possible(plan: ConvPlan, work: ConvWorkload, isa: Isa) -> bool:
    """Return whether there is a kernel for a plan that shares products; `work` is canonical."""
    tile, block = plan.tiling, plan.blocking
    if isa.pairs is None or not fits(work, plan.square) or tile.rows != 1:
        return False
    whole = block.rows == work.out_height or block.rows % plan.square[0] == 0
    registers = any(tile.columns <= mr and tile.nv <= nv for mr, nv in isa.pairs.tiles)
    cut = whole and block.columns == work.out_width
    return registers and cut and block.blocks <= -(-work.filters // (tile.nv * isa.pairs.lanes))


def items(plan: ConvPlan, work: ConvWorkload, isa: Isa) -> int:
    """Return the parallel items of a plan that shares products."""
    assert isa.pairs is not None, "the caller asked"
    rows = -(-tiles(work, plan.square)[0] // -(-plan.blocking.rows // plan.square[0]))
    blocks = -(-work.filters // (plan.tiling.nv * isa.pairs.lanes))
    return work.batch * rows * -(-blocks // plan.blocking.blocks)


def shared_cycles(work: ConvWorkload, isa: Isa, plan: ConvPlan) -> float:
    """Estimate a layer that shares products."""
    assert isa.pairs is not None, "the caller asked"
    micro, costs = isa.pairs, _costs(isa.pairs)
    down, across = tiles(work, plan.square)
    rows = -(-plan.blocking.rows // plan.square[0])
    vectors, pairs = -(-work.filters // micro.lanes), -(-work.channels // 2)
    total = 0.0
    for blocks_of_pixels, rows_of_tiles in pieces(down, rows):
        for count, mr in pieces(rows_of_tiles * across, plan.tiling.columns):
            for blocks, nv in pieces(vectors, plan.tiling.nv):
                dots = max(micro.cycles(mr, nv), nv * 4 * micro.lanes / costs.weights_rate)
                total += blocks_of_pixels * count * blocks * (pairs * dots + TILE_CYCLES)
    pixels = costs.pixel_cycles * -(-work.channels // (2 * micro.lanes)) + costs.result_cycles * vectors
    return work.batch * products(plan.square) * (total + pixels * down * across)


def _tile_rows(work: ConvWorkload, square: tuple[int, int], *, equal: bool) -> int:
    """Rows of tiles in a block of pixels: as few as are enough; more where all blocks are then equal if ``equal``."""
    down, across = tiles(work, square)
    return next(
        n for n in range(1, down + 1) if (not equal or down % n == 0) and (n * across >= _LEAST_TILES or n == down)
    )


def _blocks(work: ConvWorkload, square: tuple[int, int], rows: int, blocks: int) -> int:
    """Blocks of filters in an item, so that there are at least some sixteen of these."""
    wanted = min(_WANTED_ITEMS, max(1, work.macs // _ITEM_MACS))
    parts = -(-wanted // (work.batch * -(-tiles(work, square)[0] // rows)))
    return -(-blocks // min(parts, blocks))
