"""AArch64 with the 8-bit dot product (Cortex-A76, Neoverse N1): ``sdot`` by lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, shuffle, splat
from qcompile.kernels.depthwise_micro import FmaDepthwise
from qcompile.kernels.isa import Isa, neon


@dataclass(frozen=True)
class _SdotMicroKernel:
    """int8: 16 activations of a row in one register, each lane of four against nv vectors of weights."""

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    group: int = 4
    unroll: int = 4
    tiles: Sequence[tuple[int, int]] = neon.BY_LANE_TILES

    def cycles(self, mr: int, nv: int) -> float:
        """Two ``sdot`` a cycle, latency 4, one load a cycle."""
        return max(mr * nv, 8, mr / 2 + nv * 2) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Accumulators start at the bias."""
        return [[b.register("int32x4", bias[j]) for j in range(nv)] for _ in range(mr)]

    def step(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
        """One register of activations per row for all groups."""
        nv = len(state[0])
        codes = [b.let(bitcast("int32x4", a.load(row, 16))) for row in rows]
        for g in range(groups):
            weights = [b.let(w.load(at + (g * nv + j) * 16, 16)) for j in range(nv)]
            for code, sums in zip(codes, state, strict=True):
                lane = bitcast("int8x16", splat(shuffle([code], [g]), 4))
                for total, weight in zip(sums, weights, strict=True):
                    total.set(_dot(total.get(), weight, lane))

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """The accumulators of one row."""
        return [b.let(total.get()) for total in state[row]]


def _dot(total: Expr, weights: Expr, codes: Expr) -> Expr:
    """``total[i] + sum(weights[4i:4i+4] * codes[4i:4i+4])``."""
    return call_pure("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, weights, codes)


NEON_DOTPROD = Isa(
    name="neon_dotprod",
    activation_dtype="int8",
    vector_bytes=16,
    int8=_SdotMicroKernel(),
    float32=neon.NeonFmaMicroKernel(),
    round_clamp=neon.round_clamp,
    round_saturating=neon.round_saturating,
    narrow=neon.narrow,
    depthwise_int8=neon.NeonDepthwise(),
    depthwise_float32=FmaDepthwise(lanes=4),
)
