"""AArch64 with the 8-bit dot product (Cortex-A76, Neoverse N1): ``sdot`` by lane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
from qcompile.kernels.depthwise_micro import FmaDepthwise
from qcompile.kernels.isa import DepthwiseRows, Isa, neon


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

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
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


@dataclass(frozen=True)
class SdotDepthwise:
    """int8: up to four filter rows of a column interleave into one ``sdot``, four channels a register.

    A column of pixels is interleaved once and meets every output column that it touches.
    """

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    channels: int = 8

    def columns(self, kernel: tuple[int, int], stride: int) -> int:
        """Output columns at once: more share interleaved pixels, until the registers run out."""
        if stride > 1:
            return 2
        return 4 if kernel[0] <= 4 and kernel[1] <= 3 else 3

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[four rows][column][four channels][channel][row], zeros for the rows that are missing."""
        channels, rows, columns = weights.shape
        padded = np.pad(weights, ((0, 0), (0, -rows % 4), (0, 0)))
        fours = padded.reshape(channels // 4, 4, -1, 4, columns)
        return np.ascontiguousarray(fours.transpose(2, 4, 0, 1, 3))

    def sums(
        self,
        b: Builder,
        rows: DepthwiseRows,
        w: Memory,
        at: Index,
        kernel: tuple[int, int],
        bias: Sequence[Expr],
        columns: int,
    ) -> Iterator[list[Expr]]:
        """From the left: each column of pixels to all sums it belongs to."""
        meetings: dict[int, list[tuple[int, int]]] = {}
        for x in range(columns):
            for j in range(kernel[1]):
                meetings.setdefault(x * rows.column_step + j * rows.tap_step, []).append((x, j))
        totals = [list(bias) for _ in range(columns)]
        for _, pairs in sorted(meetings.items()):
            for four in range(-(-kernel[0] // 4)):
                pixels = self._interleaved(b, rows, kernel[0], four, *pairs[0])
                for x, j in pairs:
                    first = at + ((four * kernel[1] + j) * self.channels) * 4
                    for q, pixel in enumerate(pixels):
                        weight = b.let(w.load(first + q * 16, 16))
                        totals[x][q] = b.let(_dot(totals[x][q], weight, pixel))
            for x, j in pairs:
                if j == kernel[1] - 1:
                    yield totals[x]

    def _interleaved(self, b: Builder, rows: DepthwiseRows, height: int, four: int, x: int, j: int) -> list[Expr]:
        """Four rows of one column, channel by channel; a missing row repeats and meets zero weights."""
        taken = [min(4 * four + i, height - 1) for i in range(4)]
        loaded = {i: b.let(rows.load(x, i, j, self.channels)) for i in set(taken)}
        top, bottom = [_zips(b, loaded[taken[i]], loaded[taken[i + 1]]) for i in (0, 2)]
        found = []
        for upper, lower in zip(top, bottom, strict=True):
            pairs = [bitcast("int16x8", half) for half in (upper, lower)]
            found += [b.let(bitcast("int8x16", quarter)) for quarter in _zips(b, *pairs)]
        return found


def _zips(b: Builder, x: Expr, y: Expr) -> list[Expr]:
    """Elements of x and y in turn, in as many registers of 16 bytes as they fill."""
    lanes = lanes_of(x)
    order = [part for i in range(lanes) for part in (i, lanes + i)]
    size = 8 if "int16" in str(x.ty) else 16
    return [b.let(shuffle([x, y], order[i : i + size])) for i in range(0, 2 * lanes, size)]


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
    narrows_pixels=True,
    loads_pairs=True,
    lookup=neon.lookup,
    depthwise_int8=SdotDepthwise(),
    depthwise_float32=FmaDepthwise(lanes=4),
)
