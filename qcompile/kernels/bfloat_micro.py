"""Products of bfloat16 numbers, summed in float32: dot products of pairs on x86."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import Builder, Expr, Index, Inlined, Memory, bitcast, cast, splat
from qcompile.kernels.micro_kernel import MicroKernel

_DOT = Inlined(
    "qc_bfloat16_dot",
    """declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @qc_bfloat16_dot(<16 x float> %sum, <16 x i32> %a, <16 x i32> %b) #0 {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %z = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %z
}
""",
)
"""``vdpbf16ps``: each float32 lane plus two products."""


@dataclass(frozen=True)
class PairSums(MicroKernel):
    """bfloat16 on x86: two neighbouring values of a row, repeated, against nv vectors of pairs of weights.

    Attributes:
        tiles: register tiles (mr, nv).
        lanes: float32 numbers in a vector.
        unroll: pairs of a full step.
    """

    tiles: Sequence[tuple[int, int]]
    lanes: int = 16
    unroll: int = 4
    group: int = 2
    a_dtype: str = "bfloat16"
    b_dtype: str = "bfloat16"
    sum_dtype: str = "float32"
    exact: bool = True

    def cycles(self, mr: int, nv: int) -> float:
        """One product of pairs a cycle; two loads a cycle."""
        return max(mr * nv, 6, (mr + nv) / 2)

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` pairs of K."""
        for g in range(groups):
            pairs = [bitcast("int32", a.load(row + g * 2, 2)) for row in rows]
            self._multiply(b, state, pairs, w, at + g * len(state[0]) * 2 * self.lanes)

    def partial(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, values: int
    ) -> None:
        """Emit the last value of a run of odd length; its partner is zero, and not read."""
        self._multiply(b, state, [cast("int32", a.load(row)) for row in rows], w, at)

    def _multiply(self, b: Builder, state: Any, pairs: Sequence[Expr], w: Memory, at: Index) -> None:
        words, sums = f"int32x{self.lanes}", f"float32x{self.lanes}"
        weights = [b.let(bitcast(words, w.load(at + j * 2 * self.lanes, 2 * self.lanes))) for j in range(len(state[0]))]
        for pair, totals in zip(pairs, state, strict=True):
            values = b.let(splat(pair, self.lanes))
            for total, weight in zip(totals, weights, strict=True):
                total.set(b.inline(_DOT, sums, total.get(), values, weight))
