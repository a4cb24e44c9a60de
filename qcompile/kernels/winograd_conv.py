"""Emits 3x3 convolutions by minimal filtering (``winograd``), with the operands and the epilogue of all others.

An item transforms its rows of pixels into scratch, widened, and then makes one block of filters after another: a
small matrix product for each of a tile's products, then the sums of all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import tirx

from qcompile.kernels import parameters as at_word
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    cast,
    const,
    equal,
    index,
    less,
    quotient,
    remainder,
    splat,
)
from qcompile.kernels.conv_plan import ConvPlan
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.epilogue import Epilogue, Scale, storage_dtype
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.winograd import INVERSE_OF_3, forms, tiles

_WIDE, _SUM = 2, 4
"""Bytes of a transformed pixel and of a sum."""

_UNROLLED_BYTES = 32
"""Bytes of a vector from which on two steps of K at once cost no spills: products need no copies of operands."""

_UNROLLED_SUMS = 20
"""Sums in registers from which on such steps would spill some."""


def plan_winograd(work: ConvWorkload, isa: Isa, plan: ConvPlan) -> Kernel:
    """Generate the kernel of a layer that ``winograd.fits``; its weights are those of ``winograd.pack``."""
    return _Generator(work, isa, plan).kernel()


class _Generator:
    """Emits one convolution."""

    def __init__(self, work: ConvWorkload, isa: Isa, plan: ConvPlan) -> None:
        assert isa.pairs is not None, "transformed pixels have 16 bits"
        self.work, self.isa, self.plan = work, isa, plan
        self.micro = replace(isa.pairs, b_dtype="int16")
        self.down, self.across = forms(plan.square)
        self.tile_rows = -(-plan.blocking.rows // plan.square[0])
        self.tile_columns = tiles(work, plan.square)[1]
        self.count = self.tile_rows * self.tile_columns
        self.products = self.down.points * self.across.points
        self.vector = 2 * self.micro.lanes
        self.depth = -(-work.channels // self.vector) * self.vector
        self.block = plan.tiling.nv * self.micro.lanes
        self.blocks = -(-work.filters // self.block)
        self.shift = 128 if storage_dtype(isa, "int8") == "uint8" else 0
        self._lay_out()
        self.b = Builder()
        self.input = self.b.argument(0, storage_dtype(isa, "int8"))
        self.weights = self.b.argument(1, "int16")
        self.epilogue = Epilogue(self.b, work, isa, self.micro.lanes)
        self.pixels, self.sums = self.b.scratch("int16"), self.b.scratch("int32")

    def _lay_out(self) -> None:
        """Cut scratch: rows transformed in one direction, transformed pixels, products."""
        columns = self.tile_columns * self.across.outputs + 2
        self.half_columns = columns
        transformed = _aligned(self.down.points * columns * self.vector * _WIDE) // _WIDE
        self.transformed = transformed
        products = transformed + _aligned(self.products * self.count * self.depth * _WIDE) // _WIDE
        self.product_sums = products * _WIDE // _SUM
        self.scratch_bytes = products * _WIDE + _aligned(self.products * self.count * self.block * _SUM)

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work, blocking = self.b, self.work, self.plan.blocking
        row_blocks = -(-tiles(work, self.plan.square)[0] // self.tile_rows)
        parts = -(-self.blocks // blocking.blocks)
        with b.loop(b.end - b.begin, b.begin, "item") as item:
            pixel_block, part = (item, index(0)) if parts == 1 else _split(b, item, parts)
            image, row_block = (index(0), pixel_block) if work.batch == 1 else _split(b, pixel_block, row_blocks)
            row = b.let(row_block * (self.tile_rows * self.down.outputs))
            if parts == 1:
                self._transform(image, row)
            else:
                with b.when(tirx.Or(equal(item, b.begin), equal(part, 0))):
                    self._transform(image, row)  # the parts of one block of pixels follow one another
            self._blocks(image, row, part)
        name = symbol("winograd", work, self.isa.name, self.plan)
        plane, stripe = work.out_height * work.out_width, blocking.rows * work.out_width
        levels = ((work.batch, plane), (row_blocks, stripe), (parts, 0))
        return Kernel(name, b.function(name), work.batch * row_blocks * parts, self.scratch_bytes, levels, work.filters)

    # -- pixels ---------------------------------------------------------------------------------------------

    def _rows_of_tiles(self, row: Expr) -> Index:
        """Rows of tiles in the block that starts at an output row: the last one may have fewer."""
        down = tiles(self.work, self.plan.square)[0]
        if down % self.tile_rows == 0:
            return self.tile_rows
        left = index(down) - quotient(row, self.down.outputs)
        return self.b.let(tirx.Min(index(self.tile_rows), left))

    def _transform(self, image: Index, row: Expr) -> None:
        """Transform the pixels under a block, a vector of channels at a time."""
        b, work, down = self.b, self.work, self.down
        rows, parts = self._rows_of_tiles(row), self.depth // self.vector
        with b.loop(rows, stem="ty") as ty:
            top = b.let(row + index(ty) * down.outputs - work.pads[0])
            inside = tirx.And(tirx.Not(less(top, 0)), tirx.Not(less(work.height - down.points, top)))
            inside = b.let(inside)
            with b.loop(parts, stem="c") as part:
                channel = b.let(index(part) * self.vector)
                self._fill_border(ty)
                with b.when(inside):
                    self._transform_rows(image, top, channel, apart=False)
                with b.when(tirx.Not(inside)):
                    self._transform_rows(image, top, channel, apart=True)
                with b.loop(down.points, stem="i") as i, b.loop(self.tile_columns, stem="tx") as tx:
                    self._transform_columns(index(i), index(ty) * self.tile_columns + tx, index(tx), channel)

    def _transform_rows(self, image: Index, top: Expr, channel: Expr, *, apart: bool) -> None:
        """Transform columns of pixels from row ``top`` on; ``apart``: some rows lie outside of the image."""
        b, work, points = self.b, self.work, self.down.points
        places, masks = [], []
        for i in range(points):
            row = b.let(top + i)
            if apart:
                known = b.let(tirx.Max(index(0), tirx.Min(row, index(work.height - 1))))
                masks.append(splat(b.let(tirx.Select(equal(row, known), *_ALL_OR_NONE)), self.vector))
                row = known
            places.append(b.let((image * work.height + row) * (work.width * work.input_step) + channel))
        fill = self._fill() if apart else None
        with b.loop(work.width, stem="x") as x:
            seen = []
            for i, place in enumerate(places):
                codes = self.input.load(place + index(x) * work.input_step, self.vector)
                wide = cast(f"int16x{self.vector}", codes)
                seen.append(b.let(wide if fill is None else fill ^ ((wide ^ fill) & masks[i])))
            self._store_column(seen, index(x) + work.pads[1], index(x))

    def _fill(self) -> Expr:
        """A vector of the code that pads."""
        return self.b.let(splat(cast("int16", self.b.argument(7, "int32").load(at_word.IN_ZERO)), self.vector))

    def _fill_border(self, turn: Index) -> None:
        """Fill the columns next to the image; past those that pad, any code does."""
        b, left, width = self.b, self.work.pads[1], self.work.width
        fill = [self._fill()] * self.down.points
        if left:
            with b.loop(left, stem="x") as x:
                self._store_column(fill, index(x), index(turn))
        if self.half_columns > left + width:
            with b.loop(self.half_columns - left - width, left + width, stem="x") as x:
                self._store_column(fill, index(x), index(turn))

    def _store_column(self, seen: Sequence[Expr], column: Expr, salt: Expr) -> None:
        """Transform a column of pixels, and make codes of what is stored."""
        b, down = self.b, self.down
        flat = down.pixels([self.shift] * down.points, lambda value: value)
        for i, value in enumerate(down.pixels(seen, b.let)):
            if self.shift and flat[i]:
                # LLVM would keep a constant in a register that the products need.
                offset = cast("int16", index(flat[i]) + (b.unknown_zero(0, salt) >> index(32)))
                value = value - splat(offset, self.vector)
            self.pixels.store((i * self.half_columns + column) * self.vector, value, self.vector)

    def _transform_columns(self, i: Expr, number: Expr, tx: Expr, channel: Expr) -> None:
        """Finish one row of products of a tile."""
        b, across, vector = self.b, self.across, self.vector
        at = b.let((i * self.half_columns + tx * across.outputs) * vector)
        seen = [b.let(self.pixels.load(at + j * vector, vector)) for j in range(across.points)]
        size = self.count * self.depth
        to = b.let(self.transformed + i * (across.points * size) + number * self.depth + channel)
        for j, value in enumerate(across.pixels(seen, b.let)):
            self.pixels.store(to + j * size, value, vector)

    # -- filters --------------------------------------------------------------------------------------------

    def _blocks(self, image: Index, row: Expr, part: Expr) -> None:
        """Emit the blocks of filters of an item, the last of all apart where it is smaller."""
        b, work, many = self.b, self.work, self.plan.blocking.blocks
        first, rows = b.let(part * many), self._rows_of_tiles(row)
        ragged = work.filters % self.block
        end = self.blocks - 1 if ragged else self.blocks
        whole = b.let(tirx.Min(first + many, index(end)) - first) if end % many or ragged else min(many, end)

        def block(number: Index, nv: int, valid: int) -> None:
            self._products(b.let(index(number) * (self.products * self._pairs * 2 * self.block)), nv, rows)
            self._results(image, row, index(number) * self.block, nv, valid)

        if end:
            with b.loop(whole, first, "n") as number:
                block(number, self.plan.tiling.nv, self.block)
        if ragged:
            with b.when(less(end, first + many)):
                block(end, -(-ragged // self.micro.lanes), ragged)

    @property
    def _pairs(self) -> int:
        """Pairs of channels."""
        return -(-self.work.channels // 2)

    def _products(self, weights: Expr, nv: int, rows: Index) -> None:
        """Multiply the pixels of so many rows of tiles by a block's weights."""
        b, lanes, mr = self.b, nv * self.micro.lanes, self.plan.tiling.columns
        count = rows * self.tile_columns
        with b.loop(self.products, stem="p") as product:
            pixels = b.let(self.transformed + index(product) * (self.count * self.depth))
            at = b.let(weights + index(product) * (self._pairs * 2 * lanes))
            to = b.let(self.product_sums + index(product) * (self.count * lanes))

            def tile(first: Index, height: int, pixels: Expr = pixels, at: Expr = at, to: Expr = to) -> None:
                self._tile(b.let(pixels + index(first) * self.depth), at, b.let(to + index(first) * lanes), height, nv)

            whole = count // mr if isinstance(count, int) else b.let(quotient(count, mr))
            if not isinstance(whole, int) or whole:
                with b.loop(whole, stem="t") as t:
                    tile(index(t) * mr, mr)
            if isinstance(count, int):
                if count % mr:
                    tile(whole * mr, count % mr)
            else:
                last = tiles(self.work, self.plan.square)[0] % self.tile_rows * self.tile_columns
                for height in sorted({self.count % mr, last % mr} - {0}):
                    with b.when(equal(remainder(count, mr), height)):
                        tile(whole * mr, height)

    def _tile(self, pixels: Expr, weights: Expr, to: Expr, height: int, nv: int) -> None:
        """Emit one register tile: ``height`` tiles of pixels by ``nv`` vectors of filters."""
        b, micro = self.b, self.micro
        zeros = [const(0, f"int32x{micro.lanes}")] * nv
        state = micro.start(b, height, nv, zeros)
        fits = self.isa.vector_bytes >= _UNROLLED_BYTES and height * nv < _UNROLLED_SUMS
        unroll = 2 if self._pairs % 2 == 0 and fits else 1
        with b.loop(self._pairs // unroll, stem="k", rolled=True) as k:
            at = b.let(index(k) * (2 * unroll))
            rows = [pixels + at + i * self.depth for i in range(height)]
            micro.step(b, state, self.pixels, rows, self.weights, weights + at * (nv * micro.lanes), unroll)
        for i in range(height):
            for j, total in enumerate(micro.result(b, state, i)):
                self.sums.store(to + (i * nv + j) * micro.lanes, total, micro.lanes)

    # -- results --------------------------------------------------------------------------------------------

    def _results(self, image: Index, row: Expr, channel: Expr, nv: int, valid: int) -> None:
        """Make the outputs of all tiles for a block of filters; tiles at the edges have fewer."""
        b, work, (height, width) = self.b, self.work, self.plan.square
        channel = b.let(channel)
        constants = self.epilogue.bias(channel, nv), self.epilogue.scale(channel, nv)
        plane = index(image) * work.out_height

        def columns(ty: Index, at: Expr, rows: int) -> None:
            def tile(tx: Index, count: int) -> None:
                number = b.let(index(ty) * self.tile_columns + tx)
                to = b.let(((plane + at) * work.out_width + index(tx) * width) * work.output_step + channel)
                self._outputs(number, to, (rows, count), constants, valid)

            whole, rest = divmod(work.out_width, width)
            if whole:
                with b.loop(whole, stem="tx", rolled=True) as tx:
                    tile(tx, width)
            if rest:
                tile(whole, rest)

        with b.loop(self._rows_of_tiles(row), stem="ty") as ty:
            at = b.let(row + index(ty) * height)
            rest = work.out_height % height
            if rest == 0 or work.out_height < height:
                columns(ty, at, rest or height)
                return
            inside = b.let(less(at + (height - 1), work.out_height))
            for condition, rows in ((inside, height), (tirx.Not(inside), rest)):
                with b.when(condition):
                    columns(ty, at, rows)

    def _outputs(
        self, number: Expr, to: Expr, size: tuple[int, int], constants: tuple[list[Expr], list[Scale]], valid: int
    ) -> None:
        """Make ``size`` (rows, columns) outputs of one tile."""
        b, work, (bias, scale) = self.b, self.work, constants
        nv = len(bias)
        halves = [self._across(number, j, nv, size[1]) for j in range(nv)]
        together = self.epilogue.pixels_together(nv)
        for x in range(size[1]):
            columns = [self._down(half, x, size[0], start) for half, start in zip(halves, bias, strict=True)]
            finished = []
            for y in range(size[0]):
                place = b.let(to + (y * work.out_width + x) * work.output_step)
                finished.append(([column[y] for column in columns], place))
            for start in range(0, len(finished), together):
                self.epilogue.store_pixels(finished[start : start + together], scale, valid)

    def _across(self, number: Expr, j: int, nv: int, width: int) -> list[list[Expr]]:
        """Sum the products of each row of a tile, for one vector of filters: [row of products][column]."""
        b, lanes = self.b, self.micro.lanes
        found = []
        for i in range(self.down.points):
            first = i * self.across.points
            places = [(first + n) * self.count * nv + j for n in range(self.across.points)]
            at = b.let(self.product_sums + number * (nv * lanes))
            products = [b.let(self.sums.load(at + place * lanes, lanes)) for place in places]
            found.append([b.let(total) for total in self.across.sums(products, b.let)[:width]])
        return found

    def _down(self, half: Sequence[Sequence[Expr]], x: int, height: int, bias: Expr) -> list[Expr]:
        """Finish a column of a tile: the sums, without their scale, and with the bias."""
        b, kind = self.b, f"int32x{self.micro.lanes}"
        totals = self.down.sums([row[x] for row in half], b.let)[:height]
        factor = pow(INVERSE_OF_3, self.down.thirds + self.across.thirds, 1 << 32)
        found = []
        for y, total in enumerate(totals):
            if factor != 1:
                total = total * const(factor - (1 << 32) if factor >> 31 else factor, kind)
            shift = self.down.shifts[y] + self.across.shifts[x]
            found.append(b.let((b.let(total) >> const(shift, kind)) + bias))
        return found


_ALL_OR_NONE = (const(-1, "int16"), const(0, "int16"))


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _split(b: Builder, number: Expr, parts: int) -> tuple[Expr, Expr]:
    return b.let(quotient(number, parts)), b.let(remainder(number, parts))
