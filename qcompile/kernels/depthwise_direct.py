"""Depthwise convolution straight from the tensor: borders are made in registers, no pixel is copied.

A band is one or a few output rows, which the kernel computes at once.  Rows of pixels above or below the image are
read from the nearest row and masked; whether columns are inside is known when the code is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from qcompile.kernels import parameters as at
from qcompile.kernels.builder import Builder, Expr, Index, Memory, index, less
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise_kernel import DirectKernel, PixelRows, seen_rows
from qcompile.kernels.epilogue import Epilogue
from qcompile.kernels.halves import converted

_FEWEST_INNER_BANDS = 10
"""Bands away from the borders that are worth code of their own, without masks."""


@dataclass(frozen=True)
class Block:
    """A block of channels of one band.

    Args:
        micro: its kernel.
        channel: first channel.
        weights: first packed weight.
        valid: channels that exist.
    """

    micro: DirectKernel
    channel: Index
    weights: Index
    valid: int


class Bands:
    """Emits the bands of one layer.

    Args:
        b: builder.
        work: of the layer.
        epilogue: of the layer.
        memories: input and packed weights.
        height: output rows of a band.
        columns: most output columns to compute at once.
        blocks: calls its argument for each block of channels.
    """

    def __init__(
        self,
        b: Builder,
        work: ConvWorkload,
        epilogue: Epilogue,
        memories: tuple[Memory, Memory],
        height: int,
        columns: int,
        blocks: Callable[[Callable[[Block], None]], None],
    ) -> None:
        self._b, self._work, self._epilogue, self._blocks = b, work, epilogue, blocks
        self._input, self._weights = memories
        self._height, self._columns = height, columns
        self._seen = seen_rows(work, height)
        kind, place = ("float32", at.PAD) if work.real else ("int32", at.IN_ZERO)
        self._fill = b.let(converted(b, b.argument(7, kind).load(place), kind, self._input.dtype))

    def emit(self, image: Index, first: Expr, rows: Index) -> None:
        """Emit a block of output rows; a band that would reach past the last row starts earlier instead."""
        b, work, height = self._b, self._work, self._height
        count = b.let(tirx.truncdiv(index(rows) + index(height - 1), index(height)))
        with b.loop(count, stem="y") as y:
            row = first + y * height
            if work.out_height % height:
                row = tirx.Min(index(row), index(work.out_height - height))
            row = b.let(row)
            top = b.let(row * work.strides[0] - work.pads[0])
            inner = self._inner_rows()
            if len(inner) < _FEWEST_INNER_BANDS * height or len(inner) > work.out_height - height:
                self._band(image, row, top, len(inner) <= work.out_height - height)
                return
            within = b.let(tirx.And(tirx.Not(less(row, inner.start)), less(row, inner.stop)))
            with b.when(within):
                self._band(image, row, top, masked=False)
            with b.when(tirx.Not(within)):
                self._band(image, row, top, masked=True)

    def _inner_rows(self) -> range:
        """First output rows of the bands that see existing rows of pixels only."""
        work = self._work
        last = (work.height - 1 - self._seen[-1] + work.pads[0]) // work.strides[0]
        return range(-(-work.pads[0] // work.strides[0]), last + 1)

    def _band(self, image: Index, row: Expr, top: Expr, masked: bool) -> None:
        b, work = self._b, self._work
        line = work.width * work.input_step
        starts, exist = [], []
        for offset in self._seen:
            at, exists = top + offset, None
            if masked and self._may_miss(offset):
                at = b.let(at)
                outside = tirx.Or(less(at, 0), tirx.Not(less(at, work.height)))
                exists = b.settled(tirx.Select(outside, index(0), index(-1)))
                at = tirx.Max(tirx.Min(at, index(work.height - 1)), index(0))
            starts.append(b.settled((image * work.height + at) * line - work.pads[1] * work.input_step))
            exist.append(exists)
        rows = PixelRows(self._input, tuple(starts), tuple(exist), work.input_step, None, self._fill)
        output = b.let((image * work.out_height + row) * (work.out_width * work.output_step))
        self._blocks(lambda block: self._block(rows, block, output))

    def _may_miss(self, offset: int) -> bool:
        """Return whether a row of pixels of a band lies outside for some band."""
        work = self._work
        last = (work.out_height - self._height) * work.strides[0] - work.pads[0] + offset
        return offset < work.pads[0] or last >= work.height

    def _block(self, rows: PixelRows, block: Block, output: Expr) -> None:
        """Emit a block of channels: tiles of columns at the left border, between, and at the right border."""
        b, work, micro = self._b, self._work, block.micro
        bias = self._epilogue.bias(block.channel, micro.vectors)
        scale = self._epilogue.scale(block.channel, micro.vectors)

        def tile(column: Index, count: int, inside: range | None) -> None:
            step = column * (work.strides[1] * work.input_step) + block.channel
            starts = tuple(b.settled(start + step) for start in rows.starts)
            here = replace(rows, starts=starts, inside=inside, salt=column)
            found = micro.sums(b, here, self._weights, block.weights, work, bias, count)
            self._store(found, block, scale, b.settled(output + column * work.output_step + block.channel), count)

        most = min(micro.columns(work.kernel, work.strides[1]), self._columns)
        for first, count, times, inside in self._tiles(most):
            with b.loop(times, stem="x", rolled=True) as x:
                tile(first + x * count, count, inside)

    def _tiles(self, most: int) -> Iterator[tuple[int, int, int, range | None]]:
        """(first column, columns, how often in a row, existing pixels or None for all) of tiles."""
        work = self._work
        step = -(-work.out_width // -(-work.out_width // most))
        found: list[tuple[int, int, int, range | None]] = []
        for first in range(0, work.out_width, step):
            count = min(step, work.out_width - first)
            left = work.pads[1] - first * work.strides[1]
            exists = range(left, left + work.width)
            reach = (count - 1) * work.strides[1] + (work.kernel[1] - 1) * work.dilations[1]
            inside = None if 0 in exists and reach in exists else exists
            if found and found[-1][3] is None and inside is None and found[-1][1] == count:
                found[-1] = (found[-1][0], count, found[-1][2] + 1, None)
            else:
                found.append((first, count, 1, inside))
        yield from found

    def _store(
        self, found: Iterator[list[list[Expr]]], block: Block, scale: Sequence[Expr], output: Expr, count: int
    ) -> None:
        """Finish columns as they come; what narrows several pixels at once takes those of one row."""
        b, work, micro = self._b, self._work, block.micro
        used = -(-block.valid // micro.lanes) if micro.dealt else len(scale)
        together = self._epilogue.pixels_together(used)
        waiting: list[list[tuple[list[Expr], Expr]]] = [[] for _ in range(self._height)]
        for i, column in enumerate(found):
            for row, sums in enumerate(column):
                to = b.let(output + (row * work.out_width + i) * work.output_step)
                if not micro.dealt:
                    self._epilogue.store_packed(sums, scale, to, block.valid)
                    continue
                waiting[row].append((sums[:used], to))
                if len(waiting[row]) == together or i == count - 1:
                    self._epilogue.store_pixels(waiting[row], scale[:used], block.valid)
                    waiting[row] = []
