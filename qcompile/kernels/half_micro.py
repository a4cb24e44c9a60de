"""Arithmetic on numbers of 16 bits: products and short sums in float16, long sums in float32.

A sum of K products in float16 alone would lose about one bit for each fourfold K. So at most ``BLOCK`` products meet
in a float16 accumulator, which then joins a float32 sum and starts again at zero: with rounding errors that are
independent, the error of a sum is √(BLOCK / 6) · 2⁻¹¹ of its spread (56 dB), whatever K is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import Builder, Expr, Index, Memory, Register, call_pure, cast, const, shuffle, splat
from qcompile.kernels.depthwise_kernel import DepthwiseTile
from qcompile.kernels.depthwise_micro import FixedTile
from qcompile.kernels.micro_kernel import MicroKernel

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
class HalfMicroKernel(MicroKernel):
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

    @property
    def result_lanes(self) -> int:
        """Lanes of the float32 sums."""
        return self.sum_lanes

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


@dataclass(frozen=True, kw_only=True)
class HalfDepthwise(FixedTile):
    """float16: one vector of channels against each tap's weights, several columns at once.

    Results are float32 vectors.

    Args:
        half_lanes: float16 numbers in a vector.
        block: products that a float16 accumulator takes before it joins the float32 sum.
    """

    half_lanes: int
    block: int = BLOCK
    a_dtype: str = "float16"
    b_dtype: str = "float16"

    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """Every sum is taken in the order of the taps, so that it does not depend on the tile."""
        taps = list(enumerate(tile.taps))
        totals = [list(bias) for _ in range(tile.columns)]
        for first in range(0, len(taps), self.block):
            short = self._block(b, tile, taps[first : first + self.block])
            for total, vectors in zip(totals, short, strict=True):
                parts = [part for vector in vectors for part in widened(vector, self.lanes)]
                total[:] = [b.let(long + part) for long, part in zip(total, parts, strict=True)]
        yield from totals

    def _block(self, b: Builder, tile: DepthwiseTile, taps: Sequence[tuple[int, tuple[int, int]]]) -> list[list[Expr]]:
        """Return the float16 sums over some numbered taps, by column and vector."""
        lanes, vectors = self.half_lanes, self.channels // self.half_lanes
        dtype = f"float16x{lanes}"
        found: list[list[Expr]] = [[const(0.0, dtype)] * vectors for _ in range(tile.columns)]
        for n, (i, j) in taps:
            for v in range(vectors):
                weight = b.let(tile.weights.load(tile.at + (n * self.channels + v * lanes), lanes))
                for x, total in enumerate(found):
                    pixel = tile.rows.load(x, i, j, lanes, v * lanes)
                    first = n == taps[0][0]
                    product = pixel * weight if first else call_pure(dtype, "llvm.fma", pixel, weight, total[v])
                    total[v] = b.let(product)
        return found
