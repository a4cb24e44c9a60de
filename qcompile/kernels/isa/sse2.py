"""Any 64-bit x86: ``pmaddwd`` on four lanes."""

from __future__ import annotations

from qcompile.kernels.builder import Expr, call_pure
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import FmaMicroKernel, PairMicroKernel, clamp

_TILES = ((6, 2), (12, 1), (4, 2), (3, 2), (2, 4))


def _multiply_pairs(x: Expr, y: Expr) -> Expr:
    return call_pure("int32x4", "llvm.x86.sse2.pmadd.wd", x, y)


def _round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    return call_pure("int32x4", "llvm.x86.sse2.cvtps2dq", clamp(value, lo, hi))


SSE2 = Isa(
    name="sse2",
    activation_dtype="int8",
    vector_bytes=16,
    int8=PairMicroKernel(lanes=4, tiles=_TILES, b_dtype="int16", multiply=_multiply_pairs),
    float32=FmaMicroKernel(lanes=4, tiles=_TILES, fused=False),
    round_clamp=_round_clamp,
)
