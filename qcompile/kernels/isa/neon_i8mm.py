"""AArch64 with 8-bit matrix products (Neoverse V1 and N2, Apple M2 and later): ``smmla``.

One instruction multiplies two rows of eight activations by two channels of eight weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Memory, bitcast, call_pure, shuffle
from qcompile.kernels.isa import neon_dotprod

_LOW, _HIGH = (0, 1, 4, 5), (2, 3, 6, 7)


@dataclass(frozen=True)
class _SmmlaMicroKernel:
    """int8: a register holds the sums of two rows and two channels; a last odd row is paired with itself."""

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    lanes: int = 4
    group: int = 8
    unroll: int = 4
    short_unroll: int = 2
    gather_cycles: float = 2.0
    tiles: Sequence[tuple[int, int]] = ((4, 4), (4, 3), (6, 3), (6, 2), (4, 2), (2, 4), (2, 2), (1, 4), (1, 1))

    def cycles(self, mr: int, nv: int) -> float:
        """Two ``smmla`` a cycle, latency 3; two loads a cycle, and a ``zip`` per row and 8 values of K."""
        pairs = -(-mr // 2)
        return max(2 * pairs * nv + 2 * pairs / 2, 6, mr / 2 + nv * 2) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Accumulators start at the bias, both rows alike: for each pair of rows, two registers a vector."""
        halves = [b.let(shuffle([vector], half)) for vector in bias for half in ((0, 1, 0, 1), (2, 3, 2, 3))]
        return [[b.register("int32x4", half) for half in halves] for _ in range(-(-mr // 2))]

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Two groups of a row are one register; ``zip1`` and ``zip2`` pair the rows by groups."""
        two_channels = len(state[0])
        for first in range(0, groups, 2):
            count = min(2, groups - first)
            pairs = []
            for r in range(0, len(rows), 2):
                both = (rows[r], rows[min(r + 1, len(rows) - 1)])
                pairs.append(self._paired(b, [a.load(row + first * 8, count * 8) for row in both], count))
            for g in range(count):
                for j in range(two_channels):
                    weights = b.let(w.load(at + ((first + g) * two_channels + j) * 16, 16))
                    for pair, sums in zip(pairs, state, strict=True):
                        product = "llvm.aarch64.neon.smmla.v4i32.v16i8"
                        sums[j].set(call_pure("int32x4", product, sums[j].get(), pair[g], weights))

    def _paired(self, b: Builder, rows: Sequence[Expr], groups: int) -> list[Expr]:
        """For each group of 8 values one register of both rows."""
        upper, lower = (b.let(row) for row in rows)
        if groups == 1:
            return [b.let(tirx.vectorcombine("int8x16", upper, lower))]
        words = [bitcast("int32x4", row) for row in (upper, lower)]
        return [b.let(bitcast("int8x16", shuffle(words, half))) for half in (_LOW, _HIGH)]

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """The half of each register that belongs to the row."""
        sums = [total.get() for total in state[row // 2]]
        half = _HIGH if row % 2 else _LOW
        return [b.let(shuffle(sums[j : j + 2], half)) for j in range(0, len(sums), 2)]


NEON_I8MM = replace(
    neon_dotprod.NEON_DOTPROD,
    name="neon_i8mm",
    int8=_SmmlaMicroKernel(),
    product_int8=_SmmlaMicroKernel(),
    single_int8=None,
)
