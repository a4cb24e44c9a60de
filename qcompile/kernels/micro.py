"""Pieces which several instruction sets share: float32 FMA tiles, clamping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, cast, splat
from qcompile.kernels.micro_kernel import MicroKernel


def clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """``min(max(value, lo), hi)``; NaN gives lo, since a comparison with it is false."""
    return tirx.Min(tirx.Max(value, lo), hi)


def in_chunks(groups: int, sizes: Sequence[int]) -> list[int]:
    """Cut ``groups`` into chunks of the given sizes, as many as possible of each; the last size is 1."""
    found = []
    for size in sizes:
        found += [size] * (groups // size)
        groups %= size
    return found


@dataclass(frozen=True)
class FmaMicroKernel(MicroKernel):
    """float32: each row broadcasts one value against nv vectors of weights.

    Attributes:
        lanes: floats in a vector.
        tiles: register tiles (mr, nv).
        fused: the machine has a fused multiply-add (else LLVM would call fmaf).
    """

    lanes: int
    tiles: Sequence[tuple[int, int]]
    fused: bool = True
    a_dtype: str = "float32"
    b_dtype: str = "float32"
    sum_dtype: str = "float32"
    group: int = 1
    unroll: int = 1

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one K: two FMA and two load ports, four cycles of latency."""
        return max(mr * nv, mr + nv, 8) / 2

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` values of K."""
        lanes, nv = self.lanes, len(state[0])
        for g in range(groups):
            weights = [b.let(w.load(at + (g * nv + j) * lanes, lanes)) for j in range(nv)]
            for row, sums in zip(rows, state, strict=True):
                value = b.let(splat(a.load(row + g), lanes))
                for total, weight in zip(sums, weights, strict=True):
                    total.set(self._multiply_add(value, weight, total.get()))

    def _multiply_add(self, x: Expr, y: Expr, z: Expr) -> Expr:
        if not self.fused:
            return x * y + z
        return call_pure(f"float32x{self.lanes}", "llvm.fma", x, y, z)


MultiplyPairs = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class PairMicroKernel(MicroKernel):
    """8-bit products by 16-bit arithmetic that cannot saturate: two products summed into each int32 lane.

    Rows are widened to int16 once, in scratch; a broadcast pair meets nv vectors of weight pairs.

    Attributes:
        lanes: int32 lanes in a vector.
        tiles: register tiles (mr, nv).
        b_dtype: "int8" (widened on loading) or "int16" packed weights.
        multiply: ``f(x, y)``: int32 lanes ``x[2i] * y[2i] + x[2i+1] * y[2i+1]`` of int16 vectors.
        add_products: ``f(total, x, y)``: their sum with a total, where one instruction makes it.
    """

    lanes: int
    tiles: Sequence[tuple[int, int]]
    b_dtype: str
    multiply: MultiplyPairs
    add_products: Callable[[Expr, Expr, Expr], Expr] | None = None
    a_dtype: str = "int16"
    group: int = 2
    unroll: int = 1

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one pair of K: a multiply and an add per accumulator on three ports, or both on two."""
        if self.add_products is not None:
            return max(mr * nv, mr + nv, 10) / 2
        return max((2 * mr * nv + nv) / 3 + mr / 10, 3.0)

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` pairs of K."""
        nv, pairs = len(state[0]), 2 * self.lanes
        for g in range(groups):
            weights = [self._weights(b, w, at + (g * nv + j) * pairs) for j in range(nv)]
            for row, sums in zip(rows, state, strict=True):
                pair = bitcast("int32", a.load(row + g * 2, 2))
                values = b.let(bitcast(f"int16x{pairs}", splat(pair, self.lanes)))
                for total, weight in zip(sums, weights, strict=True):
                    total.set(self._sum(total.get(), values, weight))

    def _sum(self, total: Expr, x: Expr, y: Expr) -> Expr:
        return total + self.multiply(x, y) if self.add_products is None else self.add_products(total, x, y)

    def _weights(self, b: Builder, w: Memory, at: Index) -> Expr:
        loaded = w.load(at, 2 * self.lanes)
        return b.let(loaded if self.b_dtype == "int16" else cast(f"int16x{2 * self.lanes}", loaded))
