"""x86 with AVX2 and FMA: 8-bit values widen to 16, ``vpmaddwd`` sums two products into each int32 lane.

``vpmaddubsw`` takes twice as many products, but saturates its 16-bit sums: see ``byte_pairs`` for where it serves.
"""

from __future__ import annotations

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Memory, call_pure, const, lanes_of, shuffle
from qcompile.kernels.byte_pairs import BytePairKernel
from qcompile.kernels.float_depthwise import DirectFmaDepthwise
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import FmaMicroKernel, PairMicroKernel, clamp
from qcompile.kernels.pair_depthwise import DirectPairDepthwise
from qcompile.kernels.x86 import Packs, saturated

_TILES = ((6, 2), (12, 1), (3, 3), (5, 2), (4, 2), (3, 2))
_BYTE_TILES = ((12, 1), (10, 1), (8, 1), (7, 1), (6, 1), (4, 1))
_FLOAT_TILES = ((6, 2), (12, 1), (4, 2), (3, 3), (2, 4), (1, 8))


def _multiply_pairs(x: Expr, y: Expr) -> Expr:
    return call_pure("int32x8", "llvm.x86.avx2.pmadd.wd", x, y)


def _round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    return _round(clamp(value, lo, hi))


def _round(value: Expr) -> Expr:
    return call_pure("int32x8", "llvm.x86.avx.cvt.ps2dq.256", value)


def _round_saturating(value: Expr) -> Expr:
    return _round(saturated(value))


def _lookup(b: Builder, table: Memory, codes: Expr) -> Expr:
    """Sixteen ``vpshufb``, each for the codes of its sixteen; it gives 0 where bit 7 of an index is set."""
    lanes = lanes_of(codes)
    wide = b.let(codes if lanes == 32 else shuffle([codes] * (32 // lanes), range(32)))
    found = const(0, "uint8x32")
    for t in range(16):
        entries = shuffle([table.load(16 * t, 16)] * 2, range(32))
        inside = tirx.Sub(wide, const(16 * t, "uint8x32"))
        index = call_pure("uint8x32", "llvm.uadd.sat.v32i8", inside, const(0x70, "uint8x32"))
        found = found | call_pure("uint8x32", "llvm.x86.avx2.pshuf.b", entries, index)
    return b.let(found) if lanes == 32 else shuffle([b.let(found)], range(lanes))


_PACKS = Packs(
    lanes=8,
    words="llvm.x86.avx2.packssdw",
    bytes="llvm.x86.avx2.packuswb",
    add="llvm.sadd.sat.v16i16",
    stored="uint8",
)

AVX2 = Isa(
    name="avx2",
    activation_dtype="uint8",
    vector_bytes=32,
    int8=PairMicroKernel(lanes=8, tiles=_TILES, b_dtype="int8", multiply=_multiply_pairs),
    float32=FmaMicroKernel(lanes=8, tiles=_FLOAT_TILES, fused=True, unroll=4),
    round_clamp=_round_clamp,
    lookup=_lookup,
    round_saturating=_round_saturating,
    round_bounded=_round,
    narrow=_PACKS,
    narrows_pixels=True,
    eases=True,
    depthwise_int8=DirectPairDepthwise(),
    depthwise_float32=DirectFmaDepthwise(lanes=8, registers=16),
    byte_pairs=BytePairKernel(8, _BYTE_TILES, "llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    prefetches=True,
    least_weight=-128,
)
