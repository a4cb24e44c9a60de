"""x86 with AVX512-VNNI: ``vpdpbusd`` sums four u8 x s8 products into each of 16 int32 lanes."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from qcompile.kernels.bfloat_micro import PairSums
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Memory,
    bitcast,
    call_pure,
    cast,
    const,
    lanes_of,
    shuffle,
)
from qcompile.kernels.float_depthwise import DirectFmaDepthwise
from qcompile.kernels.half_micro import HalfDepthwise, HalfMicroKernel
from qcompile.kernels.isa import ByteDots, Isa
from qcompile.kernels.micro import FmaMicroKernel, PairMicroKernel, clamp
from qcompile.kernels.single_row import single_row
from qcompile.kernels.vnni import VnniMicroKernel
from qcompile.kernels.vnni_depthwise import VnniDepthwise, dot
from qcompile.kernels.x86 import Packs, saturated

_TILES = ((14, 2), (9, 3), (6, 4), (28, 1), (12, 2), (10, 2), (8, 3), (8, 2), (7, 3))

_PAIR_TILES = ((14, 2), (12, 2), (10, 2), (9, 3), (8, 2), (7, 4), (7, 3), (7, 2), (6, 4), (14, 1))

_FLOAT_TILES = ((14, 2), (9, 3), (6, 4), (28, 1), (12, 2), (10, 2), (8, 3), (8, 2), (2, 8))


def _multiply_pairs(x: Expr, y: Expr) -> Expr:
    return call_pure("int32x16", "llvm.x86.avx512.pmaddw.d.512", x, y)


def _add_pairs(total: Expr, x: Expr, y: Expr) -> Expr:
    return call_pure("int32x16", "llvm.x86.avx512.vpdpwssd.512", total, x, y)


def _round(value: Expr) -> Expr:
    """``vcvtps2dq`` of all lanes in the current rounding mode, nearest even."""
    rest = (const(0, "int32x16"), const(-1, "int16"), const(4, "int32"))
    return call_pure("int32x16", "llvm.x86.avx512.mask.cvtps2dq.512", value, *rest)


def _round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    return _round(clamp(value, lo, hi))


def _round_saturating(value: Expr) -> Expr:
    return _round(saturated(value))


def _lookup(b: Builder, table: Memory, codes: Expr) -> Expr:
    """Look words of the table up by ``vpermi2w``, then pick the byte by a shift."""
    words = [b.let(bitcast("uint16x32", table.load(64 * i, 64))) for i in range(4)]
    lanes = lanes_of(codes)
    if lanes == 64:
        pairs = bitcast("uint16x32", codes)
        low = _lookup_words(b, words, b.let(pairs & const(255, "uint16x32")))
        high = _lookup_words(b, words, b.let(pairs >> const(8, "uint16x32")))
        return bitcast("uint8x64", low | (high << const(8, "uint16x32")))
    wide = cast("uint16x32", shuffle([codes] * (32 // lanes), range(32)))
    found = cast("uint8x32", _lookup_words(b, words, b.let(wide)))
    return found if lanes == 32 else shuffle([found], range(lanes))


def _lookup_words(b: Builder, table: Sequence[Expr], codes: Expr) -> Expr:
    pair = b.let(codes >> const(1, "uint16x32"))
    halves = [call_pure("uint16x32", "llvm.x86.avx512.vpermi2var.hi.512", table[i], pair, table[i + 1]) for i in (0, 2)]
    both = tirx.Select(codes < const(128, "uint16x32"), *halves)
    shift = (codes & const(1, "uint16x32")) << const(3, "uint16x32")
    return b.let((both >> shift) & const(255, "uint16x32"))


_PACKS = Packs(
    lanes=16,
    words="llvm.x86.avx512.packssdw.512",
    bytes="llvm.x86.avx512.packuswb.512",
    add="llvm.sadd.sat.v32i16",
    stored="uint8",
)

AVX512_VNNI = Isa(
    name="avx512_vnni",
    activation_dtype="uint8",
    vector_bytes=64,
    int8=VnniMicroKernel(lanes=16, tiles=_TILES),
    float32=FmaMicroKernel(lanes=16, tiles=_FLOAT_TILES, fused=True),
    round_clamp=_round_clamp,
    lookup=_lookup,
    round_saturating=_round_saturating,
    round_bounded=_round,
    narrow=_PACKS,
    narrows_pixels=True,
    eases=True,
    depthwise_int8=VnniDepthwise(sums_at_once=24, dealt=False),
    depthwise_float32=DirectFmaDepthwise(lanes=16),
    float16=HalfMicroKernel(lanes=32, sum_lanes=16, tiles=_FLOAT_TILES, unroll=4, by_lane=False),
    depthwise_float16=HalfDepthwise(half_lanes=32, lanes=16, vectors=2),
    bfloat16=PairSums(_FLOAT_TILES),
    depthwise_bfloat16=DirectFmaDepthwise(lanes=16, a_dtype="bfloat16"),
    single_int8=single_row(VnniMicroKernel(lanes=16, tiles=_TILES), vectors=(8, 6, 4, 3, 2, 1), sums=10),
    byte_dots=ByteDots(dot, signed=False),
    shared_int8=PairMicroKernel(16, _PAIR_TILES, "int16", _multiply_pairs, _add_pairs),
    prefetches=True,
    least_weight=-128,
)
