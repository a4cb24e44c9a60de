"""8-bit depthwise convolution by ``sdot``: four filter rows of a column interleave, four channels a register."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, bitcast, call_pure, lanes_of, shuffle
from qcompile.kernels.depthwise_kernel import DepthwiseKernel, DepthwiseRows, DepthwiseTile

_LINES = 2


@dataclass(frozen=True, kw_only=True)
class SdotDepthwise(DepthwiseKernel):
    """A column of pixels is interleaved once and meets every output that it touches, in two output rows.

    Output row 1 sees the rows of output row 0 one further down: the same registers meet the same weights,
    one place further.

    Args:
        with_stride: kernel of convolutions with a column stride, whose neighbours share few pixels.
    """

    with_stride: DepthwiseKernel | None = None
    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    vectors: int = 2

    @property
    def strided(self) -> DepthwiseKernel | None:
        """The kernel that was given for it."""
        return self.with_stride

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once: more share interleaved pixels, until the registers run out."""
        if stride > 1:
            return 2
        return 4

    def reloads(self, kernel: tuple[int, int], stride: int) -> Sequence[str]:
        """The weights of two output rows."""
        return ("weights",)

    def lines(self, strides: tuple[int, int], dilations: tuple[int, int]) -> int:
        """Output rows at once."""
        return _LINES if strides[0] == dilations[0] == 1 else 1

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[output row][four rows][column][four channels][channel][row], zeros for rows that a line does not see."""
        channels, rows, columns = weights.shape
        fours = -(-(rows + _LINES - 1) // 4)
        packed = []
        for line in range(_LINES):
            padded = np.pad(weights, ((0, 0), (line, 4 * fours - rows - line), (0, 0)))
            packed.append(padded.reshape(channels // 4, 4, fours, 4, columns).transpose(2, 4, 0, 1, 3))
        return np.ascontiguousarray(packed)

    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """The outputs of one row after another."""
        rows, (filter_rows, across) = tile.rows, tile.kernel
        height = filter_rows + tile.lines - 1
        seen = {
            (x, j): pixels
            for users in tile.shared_pixels()
            for pixels in [[self._interleaved(b, rows, height, four, *users[0]) for four in range(-(-height // 4))]]
            for x, j in users
        }
        packed_fours = -(-(filter_rows + _LINES - 1) // 4)
        for line in range(tile.lines):
            for x in range(tile.columns):
                total = list(bias)
                for j in range(across):
                    for four in range(line // 4, -(-(filter_rows + line) // 4)):
                        first = tile.at + ((line * packed_fours + four) * across + j) * self.channels * 4
                        for q, pixel in enumerate(seen[x, j][four]):
                            weight = b.let(tile.weights.load(first + q * 16, 16))
                            total[q] = b.let(dot(total[q], weight, pixel))
                yield total

    def _interleaved(self, b: Builder, rows: DepthwiseRows, height: int, four: int, x: int, j: int) -> list[Expr]:
        """Four rows of one column, channel by channel; a missing row repeats and meets zero weights."""
        taken = [min(4 * four + i, height - 1) for i in range(4)]
        loaded = {i: b.let(rows.load(x, i, j, self.channels)) for i in sorted(set(taken))}
        top, bottom = [_zips(b, loaded[taken[i]], loaded[taken[i + 1]]) for i in (0, 2)]
        found = []
        for upper, lower in zip(top, bottom, strict=True):
            pairs = [bitcast("int16x8", half) for half in (upper, lower)]
            found += [b.let(bitcast("int8x16", quarter)) for quarter in _zips(b, *pairs)]
        return found


def _zips(b: Builder, x: Expr, y: Expr) -> list[Expr]:
    """Elements of x and y in turn, in as many registers of 16 bytes as they fill."""
    lanes = lanes_of(x)
    order = [part for i in range(lanes) for part in (i, lanes + i)]
    size = 8 if "int16" in str(x.ty) else 16
    return [b.let(shuffle([x, y], order[i : i + size])) for i in range(0, 2 * lanes, size)]


def dot(total: Expr, weights: Expr, codes: Expr) -> Expr:
    """``total[i] + sum(weights[4i:4i+4] * codes[4i:4i+4])``."""
    return call_pure("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, weights, codes)
