"""Any 64-bit x86: ``pmaddwd`` on four lanes."""

from __future__ import annotations

from qcompile.kernels.builder import Expr, call_pure
from qcompile.kernels.depthwise_micro import FmaDepthwise
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import FmaMicroKernel, PairMicroKernel, clamp
from qcompile.kernels.x86 import Packs, PairDepthwise, saturated

_TILES = ((6, 2), (12, 1), (4, 2), (3, 2), (2, 4))


def _multiply_pairs(x: Expr, y: Expr) -> Expr:
    return call_pure("int32x4", "llvm.x86.sse2.pmadd.wd", x, y)


def _round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    return call_pure("int32x4", "llvm.x86.sse2.cvtps2dq", clamp(value, lo, hi))


def _round_saturating(value: Expr) -> Expr:
    return call_pure("int32x4", "llvm.x86.sse2.cvtps2dq", saturated(value))


_PACKS = Packs(
    lanes=4,
    words="llvm.x86.sse2.packssdw.128",
    bytes="llvm.x86.sse2.packsswb.128",
    add="llvm.sadd.sat.v8i16",
    stored="int8",
    clamp_words=True,
)

SSE2 = Isa(
    name="sse2",
    activation_dtype="int8",
    vector_bytes=16,
    int8=PairMicroKernel(lanes=4, tiles=_TILES, b_dtype="int16", multiply=_multiply_pairs),
    float32=FmaMicroKernel(lanes=4, tiles=_TILES, fused=False),
    round_clamp=_round_clamp,
    round_saturating=_round_saturating,
    narrow=_PACKS,
    narrows_pixels=True,
    depthwise_int8=PairDepthwise(lanes=4, tile=4, multiply=_multiply_pairs),
    depthwise_float32=FmaDepthwise(lanes=4, fused=False),
    least_weight=-128,
)
