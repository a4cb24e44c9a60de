"""AArch64 with matrix products (Neoverse V1 and N2, Apple M2 and later): ``smmla`` and ``bfmmla``.

One instruction multiplies two rows of eight 8-bit activations by two channels of eight weights; of bfloat16
numbers, two rows of four by two channels of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Index, Inlined, Memory, bitcast, call_pure, cast, const, shuffle
from qcompile.kernels.float_depthwise import DirectFmaDepthwise
from qcompile.kernels.isa import neon_dotprod
from qcompile.kernels.micro_kernel import MicroKernel

_LOW, _HIGH = (0, 1, 4, 5), (2, 3, 6, 7)


@dataclass(frozen=True)
class _RowPairs(MicroKernel):
    """A register holds the sums of two rows and two channels; a last odd row is paired with itself.

    Attributes:
        a_dtype: of the activations.
        b_dtype: of the weights.
        sums: vector of the sums.
        codes: vector of what an instruction multiplies.
        group: values of K that it multiplies.
        ahead: cycles until sums can be used again, on two pipes.
    """

    a_dtype: str = "int8"
    b_dtype: str = "int8"
    sums: str = "int32x4"
    codes: str = "int8x16"
    lanes: int = 4
    group: int = 8
    unroll: int = 4
    short_unroll: int = 2
    ahead: int = 6
    gather_cycles: float = 2.0
    tiles: Sequence[tuple[int, int]] = ((4, 4), (4, 3), (6, 3), (6, 2), (4, 2), (2, 4), (2, 2), (1, 4), (1, 1))

    def cycles(self, mr: int, nv: int) -> float:
        """Two products a cycle, latency 3 (bfloat16: 5); two loads a cycle, and a ``zip`` per row and 8 bytes of K."""
        pairs = -(-mr // 2)
        return max(2 * pairs * nv + 2 * pairs / 2, self.ahead, mr / 2 + nv * 2) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Accumulators start at the bias, both rows alike: for each pair of rows, two registers a vector."""
        halves = [b.let(shuffle([vector], half)) for vector in bias for half in ((0, 1, 0, 1), (2, 3, 2, 3))]
        return [[b.register(self.sums, half) for half in halves] for _ in range(-(-mr // 2))]

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Two groups of a row are one register; ``zip1`` and ``zip2`` pair the rows by groups."""
        two_channels, size = len(state[0]), self.group
        for first in range(0, groups, 2):
            count = min(2, groups - first)
            values = [a.load(row + first * size, count * size) for row in rows]
            self._multiply(b, state, values, w, at + first * two_channels * 2 * size, count)

    def _multiply(self, b: Builder, state: Any, values: Sequence[Expr], w: Memory, at: Index, groups: int) -> None:
        """Multiply each row's values of up to two groups."""
        two_channels, lanes = len(state[0]), 2 * self.group
        both = [(values[r], values[min(r + 1, len(values) - 1)]) for r in range(0, len(values), 2)]
        pairs = [self._paired(b, rows, groups) for rows in both]
        for g in range(groups):
            for j in range(two_channels):
                weights = b.let(w.load(at + (g * two_channels + j) * lanes, lanes))
                for pair, sums in zip(pairs, state, strict=True):
                    sums[j].set(self.product(b, sums[j].get(), pair[g], weights))

    def product(self, b: Builder, total: Expr, x: Expr, y: Expr) -> Expr:
        """Return sums plus the products of two rows and two channels."""
        return call_pure("int32x4", "llvm.aarch64.neon.smmla.v4i32.v16i8", total, x, y)

    def _paired(self, b: Builder, rows: Sequence[Expr], groups: int) -> list[Expr]:
        """For each group of 8 bytes one register of both rows."""
        upper, lower = (b.let(row) for row in rows)
        if groups == 1:
            return [b.let(tirx.vectorcombine(self.codes, upper, lower))]
        words = [bitcast("int32x4", row) for row in (upper, lower)]
        return [b.let(bitcast(self.codes, shuffle(words, half))) for half in (_LOW, _HIGH)]

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """The half of each register that belongs to the row."""
        sums = [total.get() for total in state[row // 2]]
        half = _HIGH if row % 2 else _LOW
        return [b.let(shuffle(sums[j : j + 2], half)) for j in range(0, len(sums), 2)]


_BFMMLA = Inlined(
    "qc_bfloat16_matrix",
    """declare <4 x float> @llvm.aarch64.neon.bfmmla(<4 x float>, <8 x bfloat>, <8 x bfloat>)
define <4 x float> @qc_bfloat16_matrix(<4 x float> %sum, <8 x i16> %a, <8 x i16> %b) #0 {
  %x = bitcast <8 x i16> %a to <8 x bfloat>
  %y = bitcast <8 x i16> %b to <8 x bfloat>
  %z = call <4 x float> @llvm.aarch64.neon.bfmmla(<4 x float> %sum, <8 x bfloat> %x, <8 x bfloat> %y)
  ret <4 x float> %z
}
""",
)


@dataclass(frozen=True)
class _BfloatRowPairs(_RowPairs):
    """bfloat16: sums are float32."""

    a_dtype: str = "bfloat16"
    b_dtype: str = "bfloat16"
    sums: str = "float32x4"
    codes: str = "uint16x8"
    group: int = 4
    ahead: int = 10
    exact: bool = True

    def product(self, b: Builder, total: Expr, x: Expr, y: Expr) -> Expr:
        """``bfmmla``."""
        return b.inline(_BFMMLA, "float32x4", total, x, y)

    def partial(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, values: int
    ) -> None:
        """Emit the last one to three values of a run; what lies behind it is zero, and not read."""
        found = []
        for row in rows:
            word = cast("uint64", a.load(row))
            for i in range(1, values):
                word = word | (cast("uint64", a.load(row + i)) << const(16 * i, "uint64"))
            found.append(bitcast("uint16x4", word))
        self._multiply(b, state, found, w, at, 1)


NEON_I8MM = replace(
    neon_dotprod.NEON_DOTPROD,
    name="neon_i8mm",
    int8=_RowPairs(),
    product_int8=_RowPairs(),
    single_int8=None,
    bfloat16=_BfloatRowPairs(),
    depthwise_bfloat16=DirectFmaDepthwise(lanes=4, a_dtype="bfloat16"),
)
