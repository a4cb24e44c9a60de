"""Depthwise convolution in float32, straight from the tensor: each pixel is loaded once for all columns that see it.

Pixels of bfloat16 are widened as they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, cast, const, splat
from qcompile.kernels.conv_workload import ConvWorkload
from qcompile.kernels.depthwise_kernel import DirectKernel, PixelRows, by_taps, seen_columns
from qcompile.kernels.halves import converted

_COLUMNS = 7
"""Columns at once where registers allow more: enough sums to hide the latency of one behind the others."""


@dataclass(frozen=True, kw_only=True)
class DirectFmaDepthwise(DirectKernel):
    """Keeps the weights of a filter row and the sums of a few columns in registers.

    Args:
        a_dtype: element type of the pixels: "float32" or "bfloat16".
        registers: vectors that the machine holds.
    """

    a_dtype: str = "float32"
    b_dtype: str = "float32"
    vectors: int = 2
    registers: int = 32

    @property
    def tail(self) -> DirectFmaDepthwise | None:
        """The kernel for the channels past the last whole block."""
        return replace(self, vectors=1) if self.vectors > 1 else None

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once: as many as leave room for a filter row and a pixel."""
        return max(1, min(_COLUMNS, self.registers // self.vectors - kernel[1] - 1))

    def pack(self, weights: npt.NDArray[Any], work: ConvWorkload) -> npt.NDArray[Any]:
        """[row][column][channel]."""
        return by_taps(weights)

    def sums(
        self, b: Builder, rows: PixelRows, w: Memory, at: Index, work: ConvWorkload, bias: Sequence[Expr], columns: int
    ) -> Iterator[list[list[Expr]]]:
        """Every sum is taken in the order of the taps, so that it does not depend on the tile."""
        across = work.kernel[1]
        totals = [list(bias) for _ in range(columns)]
        first = b.settled(at + b.unknown_zero(0, rows.salt))  # else LLVM keeps all weights from tile to tile
        for i in range(work.kernel[0]):
            weights = [self._weights(b, w, first + (i * across + j) * self.channels) for j in range(across)]
            for position, users in seen_columns(work, columns):
                pixel = self._pixel(b, rows, position, i)
                for x, j in users:
                    for v, (value, weight) in enumerate(zip(pixel, weights[j], strict=True)):
                        totals[x][v] = b.let(self._multiply_add(value, weight, totals[x][v]))
        yield from ([total] for total in totals)

    def _weights(self, b: Builder, w: Memory, at: Index) -> list[Expr]:
        return [b.let(w.load(at + v * self.lanes, self.lanes)) for v in range(self.vectors)]

    def _pixel(self, b: Builder, rows: PixelRows, position: int, row: int) -> list[Expr]:
        """A pixel's channels, or what stands for them outside of the image."""
        parts = (rows.pixel(position, row, self.lanes, v * self.lanes) for v in range(self.vectors))
        found = [b.let(converted(b, part, self.a_dtype, "float32")) for part in parts]
        exists = rows.exist[row]
        if exists is None or not rows.holds(position):
            return found
        words = f"int32x{self.lanes}"
        keep = splat(cast("int32", exists), self.lanes)
        fill = splat(bitcast("int32", converted(b, rows.fill, self.a_dtype, "float32")), self.lanes)
        mixed = [(bitcast(words, value) & keep) | (fill & (keep ^ const(-1, words))) for value in found]
        return [b.let(bitcast(f"float32x{self.lanes}", b.let(value))) for value in mixed]

    def _multiply_add(self, x: Expr, y: Expr, z: Expr) -> Expr:
        return call_pure(f"float32x{self.lanes}", f"llvm.fma.v{self.lanes}f32", x, y, z)
