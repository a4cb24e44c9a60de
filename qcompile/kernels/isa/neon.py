"""AArch64 without the dot product (Cortex-A53, A72): ``smull``, ``smlal``, ``sadalp`` on int8.

Two int8 products are added in an int16 lane before they are widened: with weights in
[-127, 127] their sum is at most 2 * 128 * 127 = 32512, so nothing wraps or saturates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Memory, call_pure, const, shuffle, splat
from qcompile.kernels.isa import Isa
from qcompile.kernels.micro import clamp

_NEON = "llvm.aarch64.neon."

BY_LANE_TILES = ((8, 2), (6, 2), (4, 4), (5, 3), (4, 2), (2, 4), (2, 2), (1, 4), (1, 2), (8, 1), (1, 1))
"""Register tiles of instructions that multiply by a lane: at most 16 sums, 8 rows and 4 weights."""


@dataclass(frozen=True)
class NeonMicroKernel:
    """int8: every (row, channel) pair keeps four partial sums; a tree of ``addp`` ends it."""

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    group: int = 8
    unroll: int = 2
    tiles: Sequence[tuple[int, int]] = ((4, 1), (2, 2), (3, 1), (2, 1), (1, 2), (1, 1))

    def cycles(self, mr: int, nv: int) -> float:
        """Per group: one multiply per pair on one pipe, half a ``sadalp`` on the other, and the loads."""
        products = mr * nv * self.lanes
        return max(products, (mr + nv * self.lanes) * 1.0) + 0.1 * mr + 0.2 * nv

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Partial sums start at zero; the bias joins in ``result``, after the tree."""
        zero = const(0, "int32x4")
        sums = [[b.register("int32x4", zero) for _ in range(nv * self.lanes)] for _ in range(mr)]
        return sums, list(bias)

    def step(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
        """One ``smull`` (and a ``smlal`` for a second group), then ``sadalp``, per (row, channel)."""
        sums, _ = state
        channels, size = len(sums[0]), self.group
        codes: dict[int, list[Expr]] = {}
        for first in range(0, channels, 4):
            four = range(first, first + 4)
            weights = [
                [b.let(w.load(at + (g * channels + n) * size, size)) for g in range(groups)] for n in four
            ]
            for i, (row, totals) in enumerate(zip(rows, sums, strict=True)):
                if i not in codes:  # not all rows up front: the registers would not suffice
                    codes[i] = [b.let(a.load(row + g * size, size)) for g in range(groups)]
                for n, weight in zip(four, weights, strict=True):
                    totals[n].set(totals[n].get() + _pair_sums(codes[i], weight))

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """Three ``addp`` for four channels, and the bias."""
        sums, bias = state
        totals = [total.get() for total in sums[row]]
        return [b.let(_tree(totals[4 * j : 4 * j + 4]) + bias[j]) for j in range(len(bias))]


def _pair_sums(codes: Sequence[Expr], weights: Sequence[Expr]) -> Expr:
    """Four int32 sums of neighbouring int16 products, each of one or two int8 products."""
    products = None
    for code, weight in zip(codes, weights, strict=True):
        product = call_pure("int16x8", _NEON + "smull.v8i16", code, weight)
        products = product if products is None else products + product
    return call_pure("int32x4", _NEON + "saddlp.v4i32.v8i16", products)


def _tree(totals: Sequence[Expr]) -> Expr:
    """Lane i is the sum over the lanes of ``totals[i]``."""

    def pairwise(x: Expr, y: Expr) -> Expr:
        return call_pure("int32x4", _NEON + "addp.v4i32", x, y)

    return pairwise(pairwise(totals[0], totals[1]), pairwise(totals[2], totals[3]))


@dataclass(frozen=True)
class NeonFmaMicroKernel:
    """float32: ``fmla`` by lane, four K values of a row in one register."""

    a_dtype: str = "float32"
    b_dtype: str = "float32"
    lanes: int = 4
    group: int = 1
    unroll: int = 4
    tiles: Sequence[tuple[int, int]] = BY_LANE_TILES

    def cycles(self, mr: int, nv: int) -> float:
        """Two ``fmla`` a cycle on the larger cores, latency 4, one load a cycle."""
        return max(mr * nv, 8, mr / 2 + nv * 2) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Accumulators start at the bias."""
        return [[b.register("float32x4", bias[j]) for j in range(nv)] for _ in range(mr)]

    def step(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
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

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """The accumulators of one row."""
        return [b.let(total.get()) for total in state[row]]


def round_clamp(value: Expr, lo: Expr, hi: Expr) -> Expr:
    """``fcvtns``: nearest, ties to even."""
    return _by_quads(clamp(value, lo, hi))


def _by_quads(value: Expr) -> Expr:
    lanes = int(str(value.ty.dtype).partition("x")[2] or 1)
    if lanes == 1:
        return call_pure("int32", _NEON + "fcvtns.i32.f32", value)
    if lanes == 2 or lanes == 4:
        return call_pure(f"int32x{lanes}", f"{_NEON}fcvtns.v{lanes}i32.v{lanes}f32", value)
    halves = [_by_quads(half(f"float32x{lanes // 2}", value)) for half in (tirx.vectorlow, tirx.vectorhigh)]
    return tirx.vectorcombine(f"int32x{lanes}", *halves)


NEON = Isa(
    name="neon",
    activation_dtype="int8",
    vector_bytes=16,
    int8=NeonMicroKernel(),
    float32=NeonFmaMicroKernel(),
    round_clamp=round_clamp,
)
