"""AArch64 without the dot product (Cortex-A53, A72): ``smull``, ``smlal``, ``sadalp`` on int8.

Two int8 products are added in an int16 lane before they are widened: with weights in
[-127, 127] their sum is at most 2 * 128 * 127 = 32512, so nothing wraps or saturates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Memory,
    call_pure,
    cast,
    const,
    lanes_of,
    shuffle,
    splat,
)
from qcompile.kernels.depthwise_kernel import DepthwiseKernel, DepthwiseTile
from qcompile.kernels.float_depthwise import DirectFmaDepthwise
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import clamp, in_chunks
from qcompile.kernels.micro_kernel import MicroKernel

_NEON = "llvm.aarch64.neon."

BY_LANE_TILES = ((8, 2), (6, 2), (4, 4), (5, 3), (4, 2), (2, 4), (2, 2), (1, 4), (1, 2), (8, 1), (1, 1))
"""Register tiles of instructions that multiply by a lane: at most 16 sums, 8 rows and 4 weights."""


@dataclass(frozen=True)
class NeonMicroKernel(MicroKernel):
    """int8: every (row, channel) pair keeps four partial sums; a tree of ``addp`` ends it.

    Attributes:
        chunks: groups of a channel that lie side by side in the packed weights, so that whole registers
            are loaded in pairs; a step is cut into such chunks, largest first.
        short_unroll: groups of a step where K is short; straight code for more than one chunk would let
            LLVM sum in another order, with more registers than there are.
        keeps_weights: go row by row with the weights of a chunk in registers, not the other way round.
    """

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    group: int = 8
    unroll: int = 8
    short_unroll: int = 4
    starts_at_zero: bool = True
    keeps_weights: bool = False
    chunks: Sequence[int] = (4, 2, 1)
    tiles: Sequence[tuple[int, int]] = ((4, 1), (2, 2), (1, 4), (3, 1), (2, 1), (1, 2), (1, 1))

    def cycles(self, mr: int, nv: int) -> float:
        """Per group: one multiply per pair on one pipe, half a ``sadalp`` on the other, and the loads."""
        products = mr * nv * self.lanes
        return max(products, (mr + nv * self.lanes) * 1.0) + 0.1 * mr + 0.2 * nv

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Partial sums start at zero; the bias joins in ``result``, after the tree."""
        zero = const(0, "int32x4")
        sums = [[b.register("int32x4", zero) for _ in range(nv * self.lanes)] for _ in range(mr)]
        return sums, list(bias)

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """One chunk after another."""
        sums, _ = state
        done = 0
        for chunk in in_chunks(groups, self.chunks):
            first = done * self.group
            self._chunk(b, sums, a, [row + first for row in rows], w, at + first * len(sums[0]), chunk)
            done += chunk

    def _chunk(
        self, b: Builder, sums: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
        """For 16 values of K ``smull``, ``smlal2`` and ``sadalp`` per (row, channel); for 8 there is no ``smlal2``.

        Operands are loaded where they are first used, not all up front: the registers would not suffice.
        """
        size = groups * self.group
        parts = [(first, min(16, size - first)) for first in range(0, size, 16)]
        channels = range(len(sums[0]))
        pairs = [(i, n) for n in channels for i in range(len(rows))]
        if self.keeps_weights:
            pairs = [(i, n) for i in range(len(rows)) for n in channels]
        codes: dict[int, list[Expr]] = {}
        weights: dict[int, list[Expr]] = {}
        for i, n in pairs:
            if n not in weights:
                weights[n] = [b.let(w.load(at + (n * size + first), wide)) for first, wide in parts]
            if i not in codes:
                codes[i] = [b.let(a.load(rows[i] + first, wide)) for first, wide in parts]
            total = sums[i][n]
            for code, weight in zip(codes[i], weights[n], strict=True):
                total.set(total.get() + _pair_sums(code, weight))

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """Three ``addp`` for four channels, and the bias."""
        sums, bias = state
        totals = [total.get() for total in sums[row]]
        return [b.let(_tree(totals[4 * j : 4 * j + 4]) + bias[j]) for j in range(len(bias))]


def _pair_sums(code: Expr, weight: Expr) -> Expr:
    """Four int32 sums of neighbouring int16 products, each of one or (for 16 codes) two int8 products."""
    halves = [(code, weight)]
    if lanes_of(code) == 16:
        halves = [(cut("int8x8", code), cut("int8x8", weight)) for cut in (tirx.vectorlow, tirx.vectorhigh)]
    products = None
    for part, factor in halves:
        product = call_pure("int16x8", _NEON + "smull.v8i16", part, factor)
        products = product if products is None else products + product
    return call_pure("int32x4", _NEON + "saddlp.v4i32.v8i16", products)


def _tree(totals: Sequence[Expr]) -> Expr:
    """Lane i is the sum over the lanes of ``totals[i]``."""

    def pairwise(x: Expr, y: Expr) -> Expr:
        return call_pure("int32x4", _NEON + "addp.v4i32", x, y)

    return pairwise(pairwise(totals[0], totals[1]), pairwise(totals[2], totals[3]))


@dataclass(frozen=True)
class NeonFmaMicroKernel(MicroKernel):
    """float32: ``fmla`` by lane, four K values of a row in one register."""

    a_dtype: str = "float32"
    b_dtype: str = "float32"
    sum_dtype: str = "float32"
    lanes: int = 4
    group: int = 1
    unroll: int = 4
    tiles: Sequence[tuple[int, int]] = BY_LANE_TILES

    def cycles(self, mr: int, nv: int) -> float:
        """Two ``fmla`` a cycle on the larger cores, latency 4, one load a cycle."""
        return max(mr * nv, 8, mr / 2 + nv * 2) / 2

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Fused multiply-adds in the order of K, so that a result does not depend on the tile."""
        nv = len(state[0])
        if groups == self.unroll:
            vectors = [b.let(a.load(row, groups)) for row in rows]
            values = [[splat(shuffle([v], [g]), 4) for g in range(groups)] for v in vectors]
        else:
            values = [[b.let(splat(a.load(row + g), 4)) for g in range(groups)] for row in rows]
        for g in range(groups):
            weights = [b.let(w.load(at + (g * nv + j) * 4, 4)) for j in range(nv)]
            for value, sums in zip(values, state, strict=True):
                for total, weight in zip(sums, weights, strict=True):
                    fused = call_pure("float32x4", "llvm.fma.v4f32", value[g], weight, total.get())
                    total.set(fused)


@dataclass(frozen=True, kw_only=True)
class NeonDepthwise(DepthwiseKernel):
    """int8: pairs of taps meet in int16 (``smull``, ``smlal``), and join int32 sums by ``saddw``.

    Attributes:
        unrolled: filters of at most so many taps keep their weights in registers; larger ones go
            row by row.
        tile: output columns at once, with the weights in registers.
        strided_tile: the same with a column stride.
    """

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    vectors: int = 4
    unrolled: int = 9
    tile: int = 3
    strided_tile: int = 1

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once: more share pixels, but each needs four registers of sums."""
        if kernel[0] * kernel[1] > self.unrolled:
            return 2
        return self.tile if stride == 1 else self.strided_tile

    def reloads(self, kernel: tuple[int, int], stride: int) -> Sequence[str]:
        """Where several columns share the registers with the weights, scales are too many."""
        unrolled = kernel[0] * kernel[1] <= self.unrolled
        return ("scales",) if unrolled and self.columns(kernel, stride) > 1 else ()

    def sums(self, b: Builder, tile: DepthwiseTile, bias: Sequence[Expr]) -> Iterator[list[Expr]]:
        """Integer sums: their order does not matter."""
        taps, rows = tile.taps, tile.rows
        if len(taps) <= self.unrolled:
            weights = [b.let(tile.weights.load(tile.at + n * 16, 16)) for n in range(len(taps))]
            for x in range(tile.columns):
                pixels = [b.let(rows.load(x, i, j, 16)) for i, j in taps]
                yield _add_taps(b, list(bias), pixels, weights)
            return
        totals = [[b.register("int32x4", part) for part in bias] for _ in range(tile.columns)]
        with b.loop(tile.kernel[0], stem="kh", rolled=True) as i:
            self._filter_row(b, tile, i, totals)
        for total in totals:
            yield [b.let(part.get()) for part in total]

    def _filter_row(self, b: Builder, tile: DepthwiseTile, i: Index, totals: Any) -> None:
        """Add one filter row to all columns."""
        rows, width = tile.rows, tile.kernel[1]
        below = dataclasses.replace(rows, corner=b.let(rows.corner + i * rows.row_step))
        weights = [b.let(tile.weights.load(tile.at + (i * width + j) * 16, 16)) for j in range(width)]
        for x, total in enumerate(totals):
            pixels = [b.let(below.load(x, 0, j, 16)) for j in range(width)]
            added = _add_taps(b, [part.get() for part in total], pixels, weights)
            for part, value in zip(total, added, strict=True):
                part.set(value)


def _add_taps(b: Builder, sums: list[Expr], pixels: Sequence[Expr], weights: Sequence[Expr]) -> list[Expr]:
    """Add ``pixels[n] * weights[n]``, 16 channels each, to four vectors of sums, two taps at a time."""
    for n in range(0, len(pixels), 2):
        for half, cut in enumerate((tirx.vectorlow, tirx.vectorhigh)):
            pair = zip(pixels[n : n + 2], weights[n : n + 2], strict=True)
            products = None
            for pixel, weight in pair:
                product = call_pure("int16x8", _NEON + "smull.v8i16", cut("int8x8", pixel), cut("int8x8", weight))
                products = product if products is None else products + product
            products = b.let(products)
            for quarter, part in enumerate((tirx.vectorlow, tirx.vectorhigh)):
                at = 2 * half + quarter
                sums[at] = b.let(sums[at] + cast("int32x4", part("int16x4", products)))
    return sums


def round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """``fcvtns``: nearest, ties to even; ``fmaxnm`` turns NaN into lo."""
    lanes = lanes_of(value)
    if lanes not in (2, 4):
        return round_saturating(clamp(value, lo, hi))
    floats = f"float32x{lanes}"
    value = call_pure(floats, f"{_NEON}fmaxnm.v{lanes}f32", value, lo)
    return round_saturating(call_pure(floats, f"{_NEON}fminnm.v{lanes}f32", value, hi))


def round_saturating(value: Expr) -> Expr:
    """``fcvtns``, which gives the ends of int32 for what lies outside."""
    lanes = lanes_of(value)
    if lanes == 1:
        return call_pure("int32", _NEON + "fcvtns.i32.f32", value)
    if lanes in (2, 4):
        return call_pure(f"int32x{lanes}", f"{_NEON}fcvtns.v{lanes}i32.v{lanes}f32", value)
    halves = [round_saturating(half(f"float32x{lanes // 2}", value)) for half in (tirx.vectorlow, tirx.vectorhigh)]
    return tirx.vectorcombine(f"int32x{lanes}", *halves)


def narrow(vectors: Sequence[Expr], zero: Expr, low: Expr | None, high: Expr | None, shift: int = 0) -> Expr:
    """``sqxtn`` to int16, ``sqadd`` of the zero point, ``sqxtn`` to int8, then the clamp, 16 lanes at a time.

    Saturating early is exact: int16 holds every q for which q + zero is an int8.
    """
    if shift:
        places = const(shift, "int32")
        shorts = [call_pure("int16x4", _NEON + "sqrshrn.v4i16", vector, places) for vector in vectors]
    else:
        shorts = [call_pure("int16x4", _NEON + "sqxtn.v4i16", vector) for vector in vectors]
    pairs = [_joined(shorts[i : i + 2], "int16x8") for i in range(0, len(shorts), 2)]
    codes = []
    for pair in pairs:
        moved = call_pure("int16x8", _NEON + "sqadd.v8i16", pair, splat(zero, 8))
        codes.append(call_pure("int8x8", _NEON + "sqxtn.v8i8", moved))
    lanes = 8 * len(codes)
    code = _joined(codes, f"int8x{lanes}")
    if low is not None:
        code = tirx.Min(tirx.Max(code, splat(low, lanes)), splat(high, lanes))
    return code if len(vectors) > 1 else shuffle([code], range(4))


def add_residual(vectors: Sequence[Expr], codes: Expr, zero: Expr, factor: Expr) -> list[Expr]:
    """``ssubl``, ``smull`` and a saturating ``sqadd``."""
    lanes, found = lanes_of(codes), []
    moved = cast(f"int16x{lanes}", codes) - cast(f"int16x{lanes}", splat(zero, lanes))
    for i, vector in enumerate(vectors):
        part = moved if lanes == 4 else shuffle([moved], range(4 * i, 4 * i + 4))
        product = call_pure("int32x4", _NEON + "smull.v4i32", part, splat(factor, 4))
        found.append(call_pure("int32x4", _NEON + "sqadd.v4i32", vector, product))
    return found


def lookup(b: Builder, table: Memory, codes: Expr) -> Expr:
    """``tbl`` in the first 64 entries, then ``tbx``, which changes only the lanes whose entry is among its 64."""
    lanes = lanes_of(codes)
    if lanes < 8:
        repeated = splat(codes, 8) if lanes == 1 else shuffle([codes] * (8 // lanes), range(8))
        return shuffle([lookup(b, table, b.let(repeated))], range(lanes))
    dtype = f"uint8x{lanes}"
    found = None
    for quarter in range(4):
        entries = [b.let(table.load(64 * quarter + 16 * i, 16)) for i in range(4)]
        if found is None:
            found = call_pure(dtype, f"{_NEON}tbl4.v{lanes}i8", *entries, codes)
        else:
            rest = codes - const(64 * quarter, dtype)  # wraps past 64 for the codes of earlier quarters
            found = call_pure(dtype, f"{_NEON}tbx4.v{lanes}i8", found, *entries, rest)
    return b.let(found)


def _joined(parts: Sequence[Expr], dtype: str) -> Expr:
    """One vector of two halves; a lone half is doubled where the type wants twice its lanes."""
    if len(parts) == 1 and lanes_of(parts[0]) == int(dtype.partition("x")[2]):
        return parts[0]
    return tirx.vectorcombine(dtype, parts[0], parts[-1])


NEON = Isa(
    name="neon",
    activation_dtype="int8",
    vector_bytes=16,
    int8=NeonMicroKernel(),
    float32=NeonFmaMicroKernel(),
    round_clamp=round_clamp,
    round_saturating=round_saturating,
    narrow=narrow,
    add_residual=add_residual,
    narrows_pixels=True,
    loads_pairs=True,
    lookup=lookup,
    depthwise_int8=NeonDepthwise(),
    depthwise_float32=DirectFmaDepthwise(lanes=4),
    map_lanes=16,
    row_lanes=16,
    product_int8=NeonMicroKernel(chunks=(1,)),
)
