"""8-bit register tiles by ``vpdpbusd``: a broadcast of four activations meets vectors of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import Builder, Index, Memory, bitcast, splat
from qcompile.kernels.micro_kernel import MicroKernel
from qcompile.kernels.vnni_depthwise import dot


@dataclass(frozen=True)
class VnniMicroKernel(MicroKernel):
    """mr x nv accumulators of int32.

    Attributes:
        lanes: int32 lanes in a vector.
        tiles: register tiles (mr, nv).
    """

    lanes: int
    tiles: Sequence[tuple[int, int]]
    a_dtype: str = "uint8"
    b_dtype: str = "int8"
    group: int = 4
    unroll: int = 1

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one dot: two dot and two load ports, five cycles of latency."""
        return max(mr * nv, mr + nv, 10) / 2

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` dots of four."""
        nv, size = len(state[0]), 4 * self.lanes
        for g in range(groups):
            weights = [b.let(w.load(at + (g * nv + j) * size, size)) for j in range(nv)]
            for row, sums in zip(rows, state, strict=True):
                codes = bitcast(f"uint8x{size}", splat(bitcast("int32", a.load(row + g * 4, 4)), self.lanes))
                codes = b.let(codes)
                for total, weight in zip(sums, weights, strict=True):
                    total.set(dot(total.get(), codes, weight))
