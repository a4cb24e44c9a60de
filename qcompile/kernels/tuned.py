"""Cuts that were measured faster than the estimated ones, found by instruction set and workload."""

from __future__ import annotations

from qcompile.kernels import winograd_plan
from qcompile.kernels.amx_kernel import AmxKernel, pixels_of_tile
from qcompile.kernels.conv_plan import Blocking, ConvPlan, Tiling, channel_blocks, micro_kernel
from qcompile.kernels.conv_workload import ConvWorkload, timed_workload, workload_fields
from qcompile.kernels.depthwise import depthwise_kernel
from qcompile.kernels.isa import Isa
from qcompile.tuning.database import Database
from qcompile.tuning.record import Record, workload_key

_AMX_TILES = 4


class TunedPlans:
    """Looks plans up for one program, and remembers which it used.

    Args:
        database: records.

    Attributes:
        used: the records whose plans were taken.
        asked: how many layers of the program have each workload.
    """

    def __init__(self, database: Database | None = None) -> None:
        self._database = database or Database()
        self.used: list[Record] = []
        self.asked: dict[ConvWorkload, int] = {}

    def count(self, workload: ConvWorkload) -> None:
        """Take note of one more layer of a workload."""
        work = timed_workload(workload)
        self.asked[work] = self.asked.get(work, 0) + 1

    def find(self, workload: ConvWorkload, isa: Isa) -> ConvPlan | None:
        """Return the plan of a workload; None where none was measured, none won, or it fits the kernels no more."""
        record = self._database.get(workload_key(isa.name, workload_fields(workload)))
        if record is None or record.plan is None:
            return None
        plan = plan_of(record.plan)
        if plan is None or not is_possible(plan, workload.canonical(), isa):
            return None
        if record not in self.used:
            self.used.append(record)
        return plan


def plan_of(numbers: tuple[int, ...]) -> ConvPlan | None:
    """Return the plan that `numbers_of` wrote; None for anything else."""
    if len(numbers) not in (6, 8):
        return None
    square = (numbers[6], numbers[7]) if len(numbers) == 8 else (1, 1)
    return ConvPlan(Tiling(*numbers[:3]), Blocking(*numbers[3:6]), square)


def numbers_of(plan: ConvPlan) -> tuple[int, ...]:
    """Return a plan as numbers.

    Those are rows, columns and vectors of the tile, rows, columns and channel blocks of an item, and, where outputs
    share products, the rows and columns of those that do.
    """
    tile, block = plan.tiling, plan.blocking
    numbers = (tile.rows, tile.columns, tile.nv, block.rows, block.columns, block.blocks)
    return (*numbers, *plan.square) if plan.shares_products else numbers


def is_possible(plan: ConvPlan, work: ConvWorkload, isa: Isa) -> bool:
    """Return whether there is a kernel for a plan.

    Args:
        plan: any.
        work: canonical.
        isa: instruction set.
    """
    tile, block = plan.tiling, plan.blocking
    if plan.shares_products:
        return min(numbers_of(plan)) >= 1 and winograd_plan.is_possible(plan, work, isa)
    if min(numbers_of(plan)) < 1 or tile.columns > work.out_width or tile.rows > work.out_height:
        return False
    if block.columns > work.out_width or block.rows > work.out_height:
        return False
    if depthwise_kernel(work, isa) is not None:
        return tile.rows == block.blocks == 1 and block.columns == work.out_width
    if block.blocks > channel_blocks(work, isa, tile) * work.groups or not _fits_registers(tile, work, isa):
        return False
    # Only the last tile of all may be shorter, and pixels next to a block are only there without a filter's reach.
    if block.columns < work.out_width and (any(work.pads) or work.kernel != (1, 1)):
        return False
    rows_fit = block.rows == work.out_height or block.rows % tile.rows == 0
    return rows_fit and (block.columns == work.out_width or block.columns % tile.columns == 0)


def _fits_registers(tile: Tiling, work: ConvWorkload, isa: Isa) -> bool:
    micro = micro_kernel(work, isa)
    if not isinstance(micro, AmxKernel):
        return any(tile.rows * tile.columns <= mr and tile.nv <= nv for mr, nv in micro.tiles)
    width = pixels_of_tile(work.out_width)
    across = -(-tile.columns // width)
    whole = tile.columns == work.out_width or tile.columns % width == 0
    return whole and tile.rows * across * tile.nv <= _AMX_TILES and tile.nv <= 2
