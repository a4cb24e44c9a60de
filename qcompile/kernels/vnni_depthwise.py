"""Depthwise convolution with ``vpdpbusd``: four rows of pixels interleaved, one dot takes four taps of a channel.

Four interleaved rows hold what two neighbouring output rows of a 3x3 filter see (or, with two such groups, of a
5x5 one): the weights of each output row lie in the places of the rows that it sees, zeros in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, const, lanes_of, shuffle, splat
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise_kernel import DirectKernel, PixelRows, seen_columns, seen_rows

_GROUP = 4
_COLUMNS = 3
"""Columns at once where registers allow more: those would make more code, and no measurable difference in time."""


def dot(total: Expr, codes: Expr, weights: Expr) -> Expr:
    """``total[i] + sum(codes[4i:4i+4] * weights[4i:4i+4])``, without saturation."""
    lanes = lanes_of(total)
    return call_pure(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", total, codes, weights)


@dataclass(frozen=True, kw_only=True)
class VnniDepthwise(DirectKernel):
    """Blocks of whole registers of bytes, or of a half or a quarter: two or four columns share a register.

    Args:
        vectors: of int32 lanes in a block: 4, 2 or 1.
        sums_at_once: vectors of sums to keep in registers.
        least_vectors: of the smallest block for the channels past the last whole one.
        group: rows of pixels that are interleaved.
        dealt: vectors hold neighbouring channels; else (blocks of whole registers) channels in the order
            in which unpacking leaves them, and saturating packs take them back.
    """

    a_dtype: str = "uint8"
    b_dtype: str = "int8"
    lanes: int = 16
    vectors: int = 4
    sums_at_once: int
    least_vectors: int = 1
    group: int = _GROUP
    dealt: bool = True

    @property
    def together(self) -> int:
        """Columns of pixels in one register."""
        return 4 * self.lanes // self.channels

    @property
    def tail(self) -> VnniDepthwise | None:
        """The kernel of blocks of half the channels."""
        half = self.vectors // 2
        return replace(self, vectors=half, dealt=True) if half >= self.least_vectors else None

    @property
    def order(self) -> list[int]:
        """The channel in each lane of a block's vectors."""
        if self.dealt:
            return list(range(self.channels))
        return [16 * part + 4 * q + i for q in range(4) for part in range(self.lanes // 4) for i in range(4)]

    def in_order(self) -> VnniDepthwise:
        """The same with neighbouring channels in each vector, whatever follows the sums."""
        return replace(self, dealt=True)

    def height(self, work: ConvWorkload) -> int:
        """Output rows at once: two where their rows of pixels fill no more groups than those of one.

        What is added may lie where the output goes, so that no row may then be computed twice.
        """
        one, two = (-(-len(seen_rows(work, rows)) // self.group) for rows in (1, 2))
        return 2 if one == two and work.out_height > 1 and not work.adds else 1

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once: as many as live in registers, or more where one ends before many begin."""
        square = ConvWorkload(1, 64, 64, 1, 1, kernel, (stride, stride))
        each = self.height(square) * self.vectors
        live = -(-kernel[1] // stride) + (self.together - 1)
        return _COLUMNS if live * each <= self.sums_at_once else max(1, self.sums_at_once // each)

    def pack(self, weights: npt.NDArray[Any], work: ConvWorkload) -> npt.NDArray[Any]:
        """[group of rows][column][output row that the group serves][lane][row of the group]."""
        seen = seen_rows(work, self.height(work))
        blocks = []
        for group, column, row in self._blocks(work):
            block = np.zeros((self.channels, self.group), weights.dtype)
            for i, offset in enumerate(seen[self.group * group : self.group * (group + 1)]):
                tap, rest = divmod(offset - row * work.strides[0], work.dilations[0])
                if rest == 0 and 0 <= tap < work.kernel[0]:
                    block[:, i] = weights[:, tap, column]
            blocks.append(block[self.order])
        return np.stack(blocks)

    def _blocks(self, work: ConvWorkload) -> list[tuple[int, int, int]]:
        """(group of rows, column, output row) of each stored block of weights."""
        height, found = self.height(work), []
        seen = seen_rows(work, height)
        for group in range(-(-len(seen) // self.group)):
            held = set(seen[self.group * group : self.group * (group + 1)])
            served = [row for row in range(height) if held & set(_rows_of(work, row))]
            found += [(group, column, row) for column in range(work.kernel[1]) for row in served]
        return found

    def sums(
        self, b: Builder, rows: PixelRows, w: Memory, at: Index, work: ConvWorkload, bias: Sequence[Expr], columns: int
    ) -> Iterator[list[list[Expr]]]:
        """Each interleaved pixel meets every output column and row that sees it."""
        height, size = self.height(work), self.channels * self.group
        seen = seen_rows(work, height)
        numbers = {place: number for number, place in enumerate(self._blocks(work))}
        totals = [[list(bias) for _ in range(height)] for _ in range(columns)]
        weights = [b.settled(at + b.unknown_zero(x, rows.salt)) for x in range(columns)]
        met, done = seen_columns(work, columns), 0
        together = self.together
        for start in range(0, len(met), together):
            side_by_side = met[start : start + together]
            for group in range(-(-len(seen) // self.group)):
                held = range(self.group * group, min(len(seen), self.group * (group + 1)))
                quads = self._quads(b, rows, side_by_side, held)
                for place, (_, users) in enumerate(side_by_side):
                    for x, j, row in [(x, j, row) for x, j in users for row in range(height)]:
                        if (group, j, row) in numbers:
                            block = weights[x] + numbers[group, j, row] * size
                            self._add(b, totals[x][row], quads[place * self.vectors :], w, block)
            last = side_by_side[-1][0]
            while done < columns and done * work.strides[1] + (work.kernel[1] - 1) * work.dilations[1] <= last:
                yield totals[done]
                done += 1

    def _add(self, b: Builder, totals: list[Expr], quads: Sequence[Expr], w: Memory, block: Index) -> None:
        for q in range(self.vectors):
            totals[q] = b.let(dot(totals[q], quads[q], w.load(block + q * 4 * self.lanes, 4 * self.lanes)))

    def _quads(
        self, b: Builder, rows: PixelRows, columns: Sequence[tuple[int, Any]], held: Sequence[int]
    ) -> list[Expr]:
        """Interleaved rows of neighbouring columns of pixels."""
        if not any(rows.holds(position) for position, _ in columns):
            return [splat(rows.fill, 4 * self.lanes)] * 4
        taps = [self._register(b, rows, [position for position, _ in columns], row) for row in held]
        quads = _unpack_quads(b, taps, self.dealt)
        masks = rows.interleaved_masks(b, held)
        if masks is None:
            return quads
        size, (keep, rest) = 4 * self.lanes, (splat(mask, self.lanes) for mask in masks)
        words = [(bitcast(f"int32x{self.lanes}", quad) & keep) | rest for quad in quads]
        return [b.let(bitcast(f"uint8x{size}", word)) for word in words]

    def _register(self, b: Builder, rows: PixelRows, columns: Sequence[int], row: int) -> Expr:
        """One row's pixels of neighbouring columns, side by side in a register; the last one fills the rest."""
        loaded = [rows.pixel(position, row, self.channels) for position in columns]
        loaded += loaded[-1:] * (4 * self.lanes // self.channels - len(loaded))
        while len(loaded) > 1:
            wide = range(2 * lanes_of(loaded[0]))
            loaded = [shuffle(pair, wide) for pair in zip(loaded[::2], loaded[1::2], strict=True)]
        return b.let(loaded[0])


def _rows_of(work: ConvWorkload, row: int) -> list[int]:
    """Rows of pixels under an output row, counted from the first under output row 0."""
    return [row * work.strides[0] + tap * work.dilations[0] for tap in range(work.kernel[0])]


def _unpack_quads(b: Builder, taps: Sequence[Expr], dealt: bool) -> list[Expr]:
    """Four vectors: the bytes of up to four registers for a quarter of the channels each, channel by channel.

    The unpacks work within 128-bit parts; dealing the 4-byte quads of each row out beforehand makes
    their result come in the order of the channels.
    """
    size = lanes_of(taps[0])
    lanes, parts = size // 4, size // 16
    rows = list(taps)
    if dealt:
        deal = [parts * q + part for part in range(parts) for q in range(4)]
        words = [shuffle([bitcast(f"int32x{lanes}", tap)], deal) for tap in taps]
        rows = [b.let(bitcast(f"uint8x{size}", word)) for word in words]
    rows += [const(0, f"uint8x{size}")] * (_GROUP - len(rows))
    halves = [[b.let(_unpack(rows[i], rows[i + 1], size, high)) for i in (0, 2)] for high in (0, 1)]
    quads = []
    for pair in halves:
        x, y = (bitcast(f"uint16x{size // 2}", half) for half in pair)
        for high in (0, 1):
            quads.append(b.let(bitcast(f"uint8x{size}", _unpack(x, y, size // 2, high, parts))))
    return quads


def _unpack(x: Expr, y: Expr, lanes: int, high: int, parts: int = 0) -> Expr:
    """``punpckl`` or ``punpckh``: elements of x and y in turn, from half of each 128-bit part."""
    parts = parts or lanes // 16
    per = lanes // parts
    order = []
    for part in range(parts):
        start = part * per + high * per // 2
        for i in range(start, start + per // 2):
            order += [i, lanes + i]
    return shuffle([x, y], order)
