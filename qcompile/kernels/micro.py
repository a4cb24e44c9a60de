"""Pieces which several instruction sets share: float32 FMA tiles, clamping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Memory, call_pure, splat


def clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """``min(max(value, lo), hi)``; NaN gives lo, since a comparison with it is false."""
    return tirx.Min(tirx.Max(value, lo), hi)


@dataclass(frozen=True)
class FmaMicroKernel:
    """float32: each row broadcasts one value against nv vectors of weights.

    Attributes:
        lanes: floats in a vector.
        tiles: register tiles (mr, nv).
        fused: the machine has a fused multiply-add (else LLVM would call fmaf).
    """

    lanes: int
    tiles: Sequence[tuple[int, int]]
    fused: bool
    a_dtype: str = "float32"
    b_dtype: str = "float32"
    group: int = 1
    unroll: int = 1

    def cycles(self, mr: int, nv: int) -> float:
        return max(mr * nv, mr + nv, 8) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        return [[b.register(f"float32x{self.lanes}", bias[j]) for j in range(nv)] for _ in range(mr)]

    def step(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
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

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        return [b.let(total.get()) for total in state[row]]
