"""Convolution and matrix product: register tiles over NHWC rows, no im2col.

Kernel arguments (unused ones may be NULL):

    p0 input (int8 as the ISA stores it, or float32)   p4 residual, like the output; or sums over the lower plane
    p1 packed weights                                  p5 table, 256 stored codes by stored code; or one parameter
    p2 bias per padded channel, int32 or float32       p6 output
    p3 multipliers per padded channel, float32         p7 parameter block (``parameters``)

``conv_packing.pack_conv`` makes p1, p2, p3 and p7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from tvm import tirx

from qcompile.kernels.amx import AmxTiles, Filters, Pixels
from qcompile.kernels.amx_kernel import AmxKernel
from qcompile.kernels.builder import Builder, Expr, Index, equal, index, less, quotient, remainder
from qcompile.kernels.byte_pairs import BytePairKernel
from qcompile.kernels.conv_plan import (
    ConvPlan,
    Walk,
    channel_blocks,
    choose_plan,
    is_streamed,
    micro_kernel,
    walk,
)
from qcompile.kernels.conv_sums import FilterSums, Places, Source
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise import depthwise_kernel, plan_depthwise
from qcompile.kernels.epilogue import Epilogue, storage_dtype
from qcompile.kernels.halves import float_weights
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.staging import Gather, Stage
from qcompile.kernels.winograd_conv import plan_winograd
from qcompile.kernels.winograd_plan import shared_plan

_KEPT = 12
"""Operands that LLVM may keep in registers from one block of channels to the next; more would spill."""


class Caches(Protocol):
    """What planning needs to know of a target."""

    @property
    def l2_bytes(self) -> int:
        """Second-level cache of one core."""


def plan_conv(workload: ConvWorkload, isa: Isa, target: Caches, plan: ConvPlan | None = None) -> Kernel:
    """Generate the kernel of a convolution.

    Args:
        workload: its shape and epilogue.
        isa: instruction set.
        target: cache sizes.
        plan: how to cut it; None: as estimates say. ``pack_conv`` must get the same.
    """
    if depthwise_kernel(workload, isa) is not None:
        return plan_depthwise(workload, isa, plan)
    work = workload.canonical()
    plan = plan or shared_plan(work, isa) or choose_plan(work, isa, target.l2_bytes)
    if plan.shares_products:
        return plan_winograd(work, isa, plan)
    return _Generator(work, isa, plan).kernel()


class _Generator:
    """Emits one convolution."""

    def __init__(self, work: ConvWorkload, isa: Isa, plan: ConvPlan) -> None:
        tiling, blocking = plan.tiling, plan.blocking
        self.work, self.isa, self.tiling, self.blocking = work, isa, tiling, blocking
        self.micro = micro_kernel(work, isa)
        self.walk: Walk = walk(work, self.micro)
        self.per_group = channel_blocks(work, isa, tiling)
        self.blocks = self.per_group * work.groups
        self.block_channels = tiling.nv * self.micro.lanes
        self.streamed = is_streamed(work, isa, plan)
        self.stored = storage_dtype(isa, work.precision)
        self.stage: Stage | None = None
        apart = work.in_pitch > 0 and work.kernel != (1, 1)
        if any(work.pads) or self.micro.a_dtype != self.stored or apart:
            self.stage = Stage(work, blocking, self.micro.a_dtype, isa.vector_bytes)
        self.gather: Gather | None = None
        if self.walk.gathered:
            used = self.stage.scratch_bytes if self.stage else 0
            cleared = isinstance(self.micro, AmxKernel) and self.micro.exact
            self.gather = Gather(work, blocking, self.walk.padded, used, self.micro.a_dtype, cleared)
        self.b = Builder()
        self.input = self.b.argument(0, self.stored)
        self.weights = self.b.argument(1, self.micro.b_dtype)
        if work.weights:
            self.weights = float_weights(self.b, 1, work.weights, isa)
        self.table = self.b.argument(1, "int32")
        self.sum_lanes = self.micro.lanes if isinstance(self.micro, AmxKernel) else self.micro.result_lanes
        self.epilogue = Epilogue(self.b, work, isa, self.sum_lanes)
        self.sums = FilterSums(self.b, work, plan, self.walk, self.micro, self.weights, self.streamed)
        self.matrix: AmxTiles | None = None
        if isinstance(self.micro, AmxKernel):
            runs, chunk = (self.walk.rows, self.walk.taps, self.walk.padded), self.micro.chunk(self.walk.run)
            self.matrix = AmxTiles(self.b, work, self.epilogue, runs, self.micro, chunk, tiling.nv, self._copied_bytes)
            self.matrix.prefetch = self.sums.prefetch if self.streamed else None

    @property
    def _copied_bytes(self) -> int:
        """Bytes of scratch that hold copies of the input."""
        last = self.gather or self.stage
        return last.scratch_bytes if last else 0

    def kernel(self) -> Kernel:
        """Emit everything."""
        row_blocks = -(-self.work.out_height // self.blocking.rows)
        column_blocks = -(-self.work.out_width // self.blocking.columns)
        parts = -(-self.blocks // self.blocking.blocks)
        b = self.b
        if self.matrix is not None:
            self.matrix.begin()
        with b.loop(b.end - b.begin, b.begin, "item") as item:
            pixel_block, part = _split(b, item, parts)
            row_block, column_block = _split(b, pixel_block, column_blocks)
            image, row = _split(b, row_block, row_blocks)
            row, column = row * self.blocking.rows, column_block * self.blocking.columns
            self._item(item, part, image if self.work.batch > 1 else 0, row, column)
        if self.matrix is not None:
            self.matrix.end()
        name = symbol("conv", self.work, self.isa.name, self.tiling, self.blocking)
        items = self.work.batch * row_blocks * column_blocks * parts
        scratch = self.matrix.scratch_bytes if self.matrix is not None else self._copied_bytes
        levels = self._levels(row_blocks, column_blocks, parts)
        return Kernel(name, b.function(name), items, scratch, levels, self.work.filters)

    def _levels(self, row_blocks: int, column_blocks: int, parts: int) -> tuple[tuple[int, int], ...]:
        """Return how an item's number is made; columns of several rows at once are not one after another."""
        work, blocking = self.work, self.blocking
        columns = blocking.columns if min(blocking.rows, work.out_height) == 1 else 0
        plane, stripe = work.out_height * work.out_width, blocking.rows * work.out_width
        return ((work.batch, plane), (row_blocks, stripe), (column_blocks, columns), (parts, 0))

    def _item(self, item: Expr, part: Index, image: Index, row: Index, column: Index) -> None:
        b, work = self.b, self.work
        rows = _remaining(b, row, self.blocking.rows, work.out_height)
        columns = _remaining(b, column, self.blocking.columns, work.out_width)
        source = self._source(item, part, image, (row, column), (rows, columns))
        first = part * self.blocking.blocks if isinstance(part, int) else b.let(part * self.blocking.blocks)
        blocks = _remaining(b, first, self.blocking.blocks, self.blocks)
        pixel = b.let((image * work.out_height + row) * work.out_width + column)
        across = -(-self.blocking.columns // self.tiling.columns)

        def tile_row(r: Index, height: int) -> None:
            def tile(c: Index, width: int) -> None:
                at = pixel + r * work.out_width + c
                corner = b.let(source.base + r * source.row_step + c * source.column_step)
                turn = quotient(r, self.tiling.rows) * across + quotient(c, self.tiling.columns)
                here = replace(source, base=corner, turn=b.let(turn))
                self._blocks(here, b.let(at), height, width, first, blocks)

            _over(b, columns, self.tiling.columns, work.out_width, tile)

        _over(b, rows, self.tiling.rows, work.out_height, tile_row)

    def _source(
        self, item: Expr, part: Index, image: Index, at: tuple[Index, Index], size: tuple[Index, Index]
    ) -> Source:
        """Bring the block of outputs of ``size`` that starts ``at`` (row, column) a copy, where it needs one."""
        b, work = self.b, self.work
        memory, pixel = self.input, work.input_step
        row_stride = work.width * pixel
        base = (image * work.height + at[0] * work.strides[0]) * work.width + at[1] * work.strides[1]
        base = b.let(base * pixel)
        if self.stage is not None:
            memory, base, row_stride = b.scratch(self.micro.a_dtype), 0, self.stage.row_stride
            pixel = work.channels

        def copy() -> None:
            if self.stage is not None:
                self.stage.emit(b, self.input, image, *at, size[0])
            if self.gather is not None:
                self.gather.emit(b, memory, base, row_stride, *size)

        if isinstance(part, int):
            copy()
        elif self.stage is not None or self.gather is not None:
            with b.when(tirx.Or(equal(item, b.begin), equal(part, 0))):
                copy()  # the parts of one block of pixels follow one another and share its copy
        if self.gather is not None:
            record, first = self.gather.record, self.gather.start
            return Source(b.scratch(self.micro.a_dtype), first, self.blocking.columns * record, record, 0, 0)
        taps = work.dilations[0] * row_stride, work.dilations[1] * pixel
        steps = work.strides[0] * row_stride, work.strides[1] * pixel
        return Source(memory, base, *steps, *taps)

    def _blocks(self, source: Source, pixel: Expr, height: int, width: int, first: Index, blocks: Index) -> None:
        """Emit the channel blocks of one rectangle of pixels."""
        b, micro = self.b, self.micro
        filters = self.work.filters // self.work.groups
        ragged = filters % self.block_channels
        last = ragged or self.block_channels
        last_nv = -(-last // micro.lanes)

        def block(group: Index, number: Index, nv: int, valid: int) -> None:
            weights = group * self.group_weights + number * self.block_weights
            padded = group * self.group_channels + number * self.block_channels
            channel = group * filters + number * self.block_channels
            entry = source.base + group * (self.work.channels // self.work.groups)
            if not isinstance(number, int) and self.sums.unlooped_groups() * height * width > _KEPT:
                entry = entry + number * b.hidden_zero
            output = b.let(pixel * self.work.output_step + channel)
            places = Places(b.let(entry), b.let(weights), b.let(padded), output)
            if self.streamed:
                turn = source.turn * self.blocking.blocks + (number - first)
                ahead = (first + self.blocking.blocks) * self.block_weights + turn * self.sums.share
                places = replace(places, ahead=b.let(ahead))
            self._tile(source, places, height, width, nv, valid)

        if self.per_group == 1:
            with b.loop(blocks, first, "g") as group:
                block(group, 0, last_nv, last)
        elif self.work.groups == 1:
            whole = blocks
            if ragged:
                whole = _minimum(b, first + blocks, self.blocks - 1) - first
            with b.loop(whole, first, "n") as number:
                block(0, number, self.tiling.nv, self.block_channels)
            if ragged:
                with b.when(equal(first + blocks, self.blocks)):
                    block(0, self.blocks - 1, last_nv, last)
        else:
            with b.loop(blocks, first, "n") as at:
                group = b.let(quotient(at, self.per_group))
                number = b.let(remainder(at, self.per_group))
                with b.when(less(number, self.per_group - 1)):
                    block(group, number, self.tiling.nv, self.block_channels)
                with b.when(equal(number, self.per_group - 1)):
                    block(group, number, last_nv, last)

    @property
    def block_weights(self) -> int:
        """Packed elements of a whole channel block."""
        return self.walk.length * self.block_channels

    @property
    def group_channels(self) -> int:
        """Padded channels of a group."""
        lanes = self.micro.lanes
        return -(-(self.work.filters // self.work.groups) // lanes) * lanes

    @property
    def group_weights(self) -> int:
        """Packed elements of a group."""
        return self.walk.length * self.group_channels

    def _tile(self, source: Source, places: Places, height: int, width: int, nv: int, valid: int) -> None:
        """Emit one register tile: sums over the whole filter, then the epilogue."""
        b, work, micro = self.b, self.work, self.micro
        if self.matrix is not None:
            strides = (source.row_step, source.column_step, source.tap_row, source.tap_column)
            filters = Filters(self.weights, places.weights, places.channel, places.output, nv, valid)
            filters = replace(filters, ahead=places.ahead)
            self.matrix.emit(Pixels(source.memory, places.input, *strides), filters, height, width)
            return
        assert not isinstance(micro, AmxKernel), "its tiles are the matrix generator's"
        pixels = [(i, j) for i in range(height) for j in range(width)]
        corners = [i * source.row_step + j * source.column_step for i, j in pixels]
        vectors = nv * micro.lanes // self.sum_lanes
        state = micro.start(b, len(pixels), nv, self.epilogue.bias(places.channel, vectors))
        if isinstance(micro, BytePairKernel):
            block = quotient(places.channel, self.block_channels)
            ahead = _minimum(b, block + self.blocking.blocks, index(self.blocks - 1)) if self.streamed else None
            seen = (source.memory, places.input, corners)
            micro.emit(b, state, seen, (self.table, self.weights), b.let(block), ahead)
        else:
            self.sums.emit(source, places, corners, state, nv)
        scale = self.epilogue.scale(places.channel, nv)
        together = self.epilogue.pixels_together(nv)
        for start in range(0, len(pixels), together):
            finished = []
            for number, (i, j) in list(enumerate(pixels))[start : start + together]:
                to = places.output + (i * work.out_width + j) * work.output_step
                finished.append((micro.result(b, state, number), to))
            self.epilogue.store_pixels(finished, scale, valid)


def _split(b: Builder, number: Index, parts: int) -> tuple[Index, Index]:
    """Quotient and remainder of an item number."""
    if parts == 1:
        return number, 0
    return b.let(quotient(number, parts)), b.let(remainder(number, parts))


def _remaining(b: Builder, at: Index, block: int, total: int) -> Index:
    """Size of the block that starts at ``at``: a number, unless the last one is shorter."""
    if total % block == 0 or isinstance(at, int):
        return min(block, total)
    return _minimum(b, block, total - at)


def _minimum(b: Builder, x: Index, y: Index) -> Index:
    if isinstance(x, int) and isinstance(y, int):
        return min(x, y)
    return b.let(tirx.Min(index(x), index(y)))


def _over(b: Builder, count: Index, tile: int, total: int, body: Callable[[Index, int], None]) -> None:
    """Call ``body(start, size)`` for the tiles of a block of ``count`` out of ``total``.

    Blocks start at multiples of the tile, so the only shorter tile is the last one of all.
    """
    tail = total % tile
    if isinstance(count, int):
        whole = count // tile
        tail = count % tile
    else:
        whole = b.let(quotient(count, tile))
    if not isinstance(whole, int) or whole:
        with b.loop(whole, stem="t") as t:
            body(t * tile, tile)
    if not tail:
        return
    if isinstance(count, int):
        body(whole * tile, tail)
    else:
        with b.when(equal(remainder(count, tile), tail)):
            body(whole * tile, tail)
