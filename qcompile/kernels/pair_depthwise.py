"""Depthwise convolution with ``vpmaddwd``, straight from the tensor: two rows of pixels interleaved and widened.

Two pairs of rows hold what two neighbouring output rows of a 3x3 filter see (three pairs, those of a 5x5 one): the
weights of each output row lie in the places of the rows that it sees, zeros in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, cast, index, shuffle, splat
from qcompile.kernels.depthwise_kernel import PixelRows
from qcompile.kernels.vnni_depthwise import VnniDepthwise

_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class DirectPairDepthwise(VnniDepthwise):
    """Blocks of 16 channels in two vectors of eight sums.

    Args:
        multiply: intrinsic that sums products of 16-bit numbers in pairs.
    """

    b_dtype: str = "int16"
    lanes: int = 8
    vectors: int = 2
    sums_at_once: int = 12
    least_vectors: int = 2
    group: int = 2
    multiply: str = "llvm.x86.avx2.pmadd.wd"

    @property
    def together(self) -> int:
        """Columns of pixels in one register."""
        return 1

    def _add(self, b: Builder, totals: list[Expr], quads: Sequence[Expr], w: Memory, block: Index) -> None:
        for half in range(2):
            weights = w.load(block + half * _CHANNELS, _CHANNELS)
            products = call_pure(f"int32x{self.lanes}", self.multiply, quads[half], weights)
            totals[half] = b.let(totals[half] + products)

    def _quads(
        self, b: Builder, rows: PixelRows, columns: Sequence[tuple[int, Any]], held: Sequence[int]
    ) -> list[Expr]:
        """Two vectors of interleaved rows of a column of pixels, 16 bits each; one row alone meets zeros."""
        ((position, _),) = columns
        if not rows.holds(position):
            return [splat(cast("int16", rows.fill), _CHANNELS)] * 2
        taps = [b.let(rows.pixel(position, row, _CHANNELS)) for row in held]
        words, found = f"int32x{self.lanes}", []
        for half in range(2):
            channels = range(half * self.lanes, (half + 1) * self.lanes)
            if len(taps) == 1:
                pairs = cast(words, shuffle(taps, channels))
            else:
                mixed = shuffle(taps, [row * _CHANNELS + c for c in channels for row in range(2)])
                pairs = bitcast(words, cast(f"int16x{_CHANNELS}", b.let(mixed)))
            found.append(b.let(pairs))
        if any(rows.exist[row] is not None for row in held):
            keep, rest = (splat(mask, self.lanes) for mask in _masks(b, rows, held))
            found = [b.let((pairs & keep) | rest) for pairs in found]
        return [b.let(bitcast(f"int16x{_CHANNELS}", pairs)) for pairs in found]


def _masks(b: Builder, rows: PixelRows, held: Sequence[int]) -> tuple[Expr, Expr]:
    """What to and and to or with a pair of 16-bit pixels to fill in rows that do not exist."""
    keep = index(0)
    for i, row in enumerate(held):
        exists = rows.exist[row]
        keep = keep | ((index(-1) if exists is None else exists) & index(0xFFFF << 16 * i))
    rest = (cast("int64", rows.fill) * index(0x00010001)) & (keep ^ index(-1))
    return b.settled(cast("int32", keep)), b.settled(cast("int32", rest))
