"""AArch64 with the 8-bit dot product (Cortex-A76, Neoverse N1): ``sdot`` by lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Memory,
    bitcast,
    call_pure,
    lanes_of,
    shuffle,
    splat,
)
from qcompile.kernels.float_depthwise import DirectFmaDepthwise
from qcompile.kernels.half_micro import HalfDepthwise, HalfMicroKernel
from qcompile.kernels.isa import ByteDots, Isa, neon
from qcompile.kernels.micro_kernel import MicroKernel
from qcompile.kernels.sdot_depthwise import SdotDepthwise, dot
from qcompile.kernels.single_row import single_row


@dataclass(frozen=True)
class _SdotMicroKernel(MicroKernel):
    """int8: 16 activations of a row in one register, each lane of four against nv vectors of weights."""

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    group: int = 4
    unroll: int = 8
    short_unroll: int = 4
    gather_cycles: float = 2.0
    tiles: Sequence[tuple[int, int]] = neon.BY_LANE_TILES

    def cycles(self, mr: int, nv: int) -> float:
        """Two ``sdot`` a cycle, latency 4, one load a cycle."""
        return max(mr * nv, 8, mr / 2 + nv * 2) / 2

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Registers of 16 activations, two of a row together where there are registers enough."""
        nv = len(state[0])
        ahead = 8 if len(rows) * (nv + 2) + nv <= 28 else 4
        for first in range(0, groups, ahead):
            count = min(ahead, groups - first)
            codes = [
                [b.let(bitcast("int32x4", a.load(row + part * 4, 16))) for part in range(first, first + count, 4)]
                for row in rows
            ]
            for g in range(count):
                at_group = at + (first + g) * nv * 16
                weights = [b.let(w.load(at_group + j * 16, 16)) for j in range(nv)]
                for code, sums in zip(codes, state, strict=True):
                    lane = bitcast("int8x16", splat(shuffle([code[g // 4]], [g % 4]), 4))
                    for total, weight in zip(sums, weights, strict=True):
                        total.set(dot(total.get(), weight, lane))


def _bound_half(value: Expr, low: Expr | None, high: Expr | None) -> Expr:
    """``fmaxnm`` and ``fminnm``."""
    for name, bound in (("fmaxnm", low), ("fminnm", high)):
        if bound is not None:
            lanes = lanes_of(value)
            value = call_pure(f"float16x{lanes}", f"llvm.aarch64.neon.{name}.v{lanes}f16", value, bound)
    return value


NEON_DOTPROD = Isa(
    name="neon_dotprod",
    activation_dtype="int8",
    vector_bytes=16,
    int8=_SdotMicroKernel(),
    float32=neon.NeonFmaMicroKernel(),
    round_clamp=neon.round_clamp,
    round_saturating=neon.round_saturating,
    narrow=neon.narrow,
    add_residual=neon.add_residual,
    narrows_pixels=True,
    loads_pairs=True,
    lookup=neon.lookup,
    depthwise_int8=SdotDepthwise(with_stride=neon.NeonDepthwise()),
    depthwise_float32=DirectFmaDepthwise(lanes=4),
    float16=HalfMicroKernel(lanes=8, sum_lanes=4, tiles=neon.BY_LANE_TILES, unroll=8, by_lane=True),
    bound_half=_bound_half,
    depthwise_float16=HalfDepthwise(half_lanes=8, lanes=4, vectors=4),
    map_lanes=16,
    row_lanes=16,
    product_int8=_SdotMicroKernel(),
    byte_dots=ByteDots(dot, signed=True),
    single_int8=single_row(_SdotMicroKernel(), vectors=(8, 6, 4, 3, 2, 1), chunk=4, unroll=8),
)
