"""Depthwise convolution with ``vpdpbusd``: four filter rows interleaved, one dot takes four taps of 16 channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, const, lanes_of, shuffle
from qcompile.kernels.isa import DepthwiseRows
from qcompile.kernels.x86 import interleaved, shared_pixels

_GROUP = 4


def dot(total: Expr, codes: Expr, weights: Expr) -> Expr:
    """``total[i] + sum(codes[4i:4i+4] * weights[4i:4i+4])``, without saturation."""
    lanes = lanes_of(total)
    return call_pure(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", total, codes, weights)


@dataclass(frozen=True)
class VnniDepthwise:
    """Blocks of whole registers of bytes, or of a half or a quarter: two or four columns share a register.

    Attributes:
        channels: ``4 * lanes``, ``2 * lanes`` or ``lanes``.
        tile: output columns at once.
        tail: kernel for the channels past the last whole block.
        lanes: int32 lanes of a register.
    """

    channels: int
    tile: int
    tail: VnniDepthwise | None = None
    a_dtype: str = "uint8"
    b_dtype: str = "int8"
    lanes: int = 16

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once."""
        return self.tile

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[group of four rows][column][channel][row of the group]."""
        return interleaved(weights, _GROUP)

    def sums(
        self,
        b: Builder,
        rows: DepthwiseRows,
        w: Memory,
        at: Index,
        kernel: tuple[int, int],
        bias: Sequence[Expr],
        columns: int,
    ) -> Iterator[list[Expr]]:
        """Each interleaved pixel meets every output column that sees it."""
        totals = [list(bias) for _ in range(columns)]
        size = self.channels * _GROUP
        for first in range(0, kernel[0], _GROUP):
            height = min(_GROUP, kernel[0] - first)
            met = shared_pixels(rows, columns, kernel[1])
            together, vectors = 4 * self.lanes // self.channels, self.channels // self.lanes
            for start in range(0, len(met), together):
                side_by_side = met[start : start + together]
                taps = [self._register(b, rows, side_by_side, first + i) for i in range(height)]
                quads = _unpack_quads(b, taps)
                for place, users in enumerate(side_by_side):
                    for x, j in users:
                        block = at + ((first // _GROUP) * kernel[1] + j) * size
                        for q in range(vectors):
                            weights = w.load(block + q * 4 * self.lanes, 4 * self.lanes)
                            codes = quads[place * vectors + q]
                            totals[x][q] = b.let(dot(totals[x][q], codes, weights))
        yield from totals

    def _register(
        self, b: Builder, rows: DepthwiseRows, columns: Sequence[Sequence[tuple[int, int]]], row: int
    ) -> Expr:
        """One row's pixels of neighbouring columns, side by side in a register; the last one fills the rest."""
        loaded = [rows.load(users[0][0], row, users[0][1], self.channels) for users in columns]
        loaded += loaded[-1:] * (4 * self.lanes // self.channels - len(loaded))
        while len(loaded) > 1:
            wide = range(2 * lanes_of(loaded[0]))
            loaded = [shuffle(pair, wide) for pair in zip(loaded[::2], loaded[1::2], strict=True)]
        return b.let(loaded[0])


def _unpack_quads(b: Builder, taps: Sequence[Expr]) -> list[Expr]:
    """Four vectors: the bytes of up to four registers for a quarter of the channels each, channel by channel.

    The unpacks work within 128-bit parts; dealing the 4-byte quads of each row out beforehand makes
    their result come in the order of the channels.
    """
    size = lanes_of(taps[0])
    lanes, parts = size // 4, size // 16
    deal = [parts * q + part for part in range(parts) for q in range(4)]
    dealt = [shuffle([bitcast(f"int32x{lanes}", tap)], deal) for tap in taps]
    dealt = [b.let(bitcast(f"uint8x{size}", tap)) for tap in dealt]
    dealt += [const(0, f"uint8x{size}")] * (_GROUP - len(dealt))
    halves = [[b.let(_unpack(dealt[i], dealt[i + 1], size, high)) for i in (0, 2)] for high in (0, 1)]
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
