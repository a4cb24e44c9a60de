"""Arithmetic on numbers of 16 bits: products and short sums in float16, long sums in float32.

A sum of K products in float16 alone would lose about one bit for each fourfold K. So at most ``BLOCK`` products meet
in a float16 accumulator, which then joins a float32 sum and starts again at zero: with rounding errors that are
independent, the error of a sum is √(BLOCK / 6) · 2⁻¹¹ of its spread (56 dB), whatever K is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.kernels.builder import Builder, Expr, Index, Memory, Register, call_pure, cast, const, shuffle, splat
from qcompile.kernels.isa import DepthwiseRows

BLOCK = 64
"""Products that are summed in float16 at most."""


@dataclass(frozen=True)
class HalfSums:
    """The accumulators of a tile, by row and by vector of channels.

    Args:
        short: float16, of the products since the last flush.
        long: float32, all before it and the bias; each is a few registers of the sums' width.
    """

    short: list[list[Register]]
    long: list[list[Register]]


@dataclass(frozen=True)
class HalfMicroKernel:
    """float16: fused multiply-adds of one value of a row with nv vectors of weights.

    Attributes:
        lanes: float16 numbers in a vector.
        sum_lanes: float32 numbers in a vector: lanes of the results.
        tiles: register tiles (mr, nv).
        unroll: values of K of a full step.
        by_lane: load a row's values of a step together, and multiply by a lane of them.
        block: products that a float16 accumulator takes before it is flushed.
    """

    lanes: int
    sum_lanes: int
    tiles: Sequence[tuple[int, int]]
    unroll: int
    by_lane: bool
    block: int = BLOCK
    a_dtype: str = "float16"
    b_dtype: str = "float16"
    group: int = 1

    def cycles(self, mr: int, nv: int) -> float:
        """Two multiply-adds a cycle, latency 4; two loads a cycle where each value is one."""
        loads = (mr / self.unroll + 2 * nv) if self.by_lane else mr + nv
        flushes = mr * nv * 8 / self.block
        return (max(mr * nv, 8, loads) + flushes) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> HalfSums:
        """Short sums start at zero, long ones at the bias, given in vectors of ``sum_lanes``."""
        zero = const(0.0, f"float16x{self.lanes}")
        short = [[b.register(f"float16x{self.lanes}", zero) for _ in range(nv)] for _ in range(mr)]
        return HalfSums(short, [[b.register(f"float32x{self.sum_lanes}", part) for part in bias] for _ in range(mr)])

    def step(
        self, b: Builder, state: HalfSums, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
        """Emit ``groups`` values of K, in their order, so that a result does not depend on the tile."""
        lanes, nv = self.lanes, len(state.short[0])
        values = [self._values(b, a, row, groups) for row in rows]
        for g in range(groups):
            weights = [b.let(w.load(at + (g * nv + j) * lanes, lanes)) for j in range(nv)]
            for value, sums in zip(values, state.short, strict=True):
                factor = value[g] if self.by_lane else b.let(splat(a.load(value[g]), lanes))
                for total, weight in zip(sums, weights, strict=True):
                    total.set(call_pure(f"float16x{lanes}", "llvm.fma", factor, weight, total.get()))

    def _values(self, b: Builder, a: Memory, row: Index, groups: int) -> list[Any]:
        """Return a row's values, repeated in all lanes; or where they lie, to be loaded one by one."""
        if not self.by_lane:
            return [row + g for g in range(groups)]
        if groups == self.unroll:
            vector = b.let(a.load(row, groups))
            return [splat(shuffle([vector], [g]), self.lanes) for g in range(groups)]
        return [b.let(splat(a.load(row + g), self.lanes)) for g in range(groups)]

    def flush(self, b: Builder, state: HalfSums) -> None:
        """Add the short sums to the long ones."""
        for short, long in zip(state.short, state.long, strict=True):
            for j, total in enumerate(short):
                parts = widened(total.get(), self.sum_lanes)
                for part, into in zip(parts, long[j * len(parts) : (j + 1) * len(parts)], strict=True):
                    into.set(into.get() + part)
                total.set(const(0.0, f"float16x{self.lanes}"))

    def result(self, b: Builder, state: HalfSums, row: int) -> list[Expr]:
        """The float32 sums of one row; the last products were flushed."""
        return [b.let(total.get()) for total in state.long[row]]


def widened(vector: Expr, lanes: int) -> list[Expr]:
    """Return a float16 vector as float32 vectors of ``lanes``."""
    whole = int(str(vector.ty).partition("x")[2])
    cut = [shuffle([vector], range(first, first + lanes)) for first in range(0, whole, lanes)]
    return [cast(f"float32x{lanes}", part) for part in cut]


@dataclass(frozen=True)
class HalfDepthwise:
    """float16: one vector of channels against each tap's weights, several columns at once.

    Attributes:
        half_lanes: float16 numbers in a vector.
        lanes: float32 numbers in a vector: lanes of the results.
        vectors: float16 vectors in a block of channels.
        tile: output columns at once.
        block: products that a float16 accumulator takes before it joins the float32 sum.
    """

    half_lanes: int
    lanes: int
    vectors: int = 2
    tile: int = 4
    block: int = BLOCK
    a_dtype: str = "float16"
    b_dtype: str = "float16"

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.half_lanes * self.vectors

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once."""
        return self.tile

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[row][column][channel]."""
        return np.ascontiguousarray(weights.transpose(1, 2, 0))

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
        """Every sum is taken in the order of the taps, so that it does not depend on the tile."""
        taps = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
        totals = [list(bias) for _ in range(columns)]
        for first in range(0, len(taps), self.block):
            short = self._block(b, rows, w, at, kernel, taps[first : first + self.block], columns)
            for total, vectors in zip(totals, short, strict=True):
                parts = [part for vector in vectors for part in widened(vector, self.lanes)]
                total[:] = [b.let(long + part) for long, part in zip(total, parts, strict=True)]
        yield from totals

    def _block(
        self,
        b: Builder,
        rows: DepthwiseRows,
        w: Memory,
        at: Index,
        kernel: tuple[int, int],
        taps: Sequence[tuple[int, int]],
        columns: int,
    ) -> list[list[Expr]]:
        """Return the float16 sums over some taps, by column and vector."""
        lanes = self.half_lanes
        dtype = f"float16x{lanes}"
        found: list[list[Expr]] = [[const(0.0, dtype)] * self.vectors for _ in range(columns)]
        for n, (i, j) in enumerate(taps):
            for v in range(self.vectors):
                weight = b.let(w.load(at + (i * kernel[1] + j) * self.channels + v * lanes, lanes))
                for x, total in enumerate(found):
                    pixel = rows.load(x, i, j, lanes, v * lanes)
                    product = call_pure(dtype, "llvm.fma", pixel, weight, total[v]) if n else pixel * weight
                    total[v] = b.let(product)
        return found
