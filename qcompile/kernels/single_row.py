"""A single row against all weights: what a squeeze-excite or a classifier does for one image.

No weight is used twice, so the speed is at best that of bringing them. Where there are few outputs, several
independent sums of each hide the latency of the dot instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompile.kernels.builder import Builder, Expr, Index, Memory, const
from qcompile.kernels.micro_kernel import MicroKernel


@dataclass(frozen=True)
class SingleRow(MicroKernel):
    """The inner kernel of an instruction set for one output pixel.

    Attributes:
        inner: kernel of many rows.
        sums: accumulators wanted at once; where ``nv`` vectors are fewer, each gets several.
        chunk: groups that ``inner`` takes at once.
    """

    inner: MicroKernel
    a_dtype: str
    b_dtype: str
    lanes: int
    group: int
    tiles: Sequence[tuple[int, int]]
    unroll: int
    sums: int
    chunk: int

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one group: a load a vector, and what latency is left."""
        return max(nv, self.sums / self._copies(nv)) / 2

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Declare accumulators; all but the first of an output start at zero."""
        zeros = [const(0, f"int32x{self.lanes}")] * nv
        return [self.inner.start(b, 1, nv, bias if n == 0 else zeros) for n in range(self._copies(nv))]

    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` dot groups, in turns for each copy of the accumulators."""
        nv = len(state[0][0])  # rows of vectors are the state of the kernels that are used so
        size = nv * self.lanes * self.group
        for number, first in enumerate(range(0, groups, self.chunk)):
            count = min(self.chunk, groups - first)
            row = [rows[0] + first * self.group]
            self.inner.step(b, state[number % len(state)], a, row, w, at + first * size, count)

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """Finished sums: those of all copies."""
        found = [self.inner.result(b, copy, 0) for copy in state]
        totals = found[0]
        for other in found[1:]:
            totals = [b.let(total + more) for total, more in zip(totals, other, strict=True)]
        return totals

    def _copies(self, nv: int) -> int:
        return max(1, min(self.unroll // self.chunk, self.sums // nv))


def single_row(
    inner: MicroKernel, vectors: Sequence[int], *, sums: int = 8, chunk: int = 1, unroll: int = 4
) -> SingleRow:
    """Return the kernel of one row that another makes.

    Args:
        inner: kernel of many rows, with tiles (1, nv) for every nv of `vectors`.
        vectors: vectors of channels to compute at once, largest first.
        sums: as `SingleRow.sums`.
        chunk: as `SingleRow.chunk`.
        unroll: groups of a full step.
    """
    tiles = tuple((1, nv) for nv in vectors)
    return SingleRow(inner, inner.a_dtype, inner.b_dtype, inner.lanes, inner.group, tiles, unroll, sums, chunk)
