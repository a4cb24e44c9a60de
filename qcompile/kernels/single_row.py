"""A single row against all weights: what a squeeze-excite or a classifier does for one image.

No weight is used twice, so the speed is at best that of bringing them. Where there are few outputs, several
independent sums of each hide the latency of the dot instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcompile.kernels.builder import Builder, Expr, Index, Memory, const

if TYPE_CHECKING:
    from qcompile.kernels.isa import MicroKernel


@dataclass(frozen=True)
class SingleRow:
    """The inner kernel of an instruction set for one output pixel.

    Attributes:
        inner: kernel of many rows; with it tiles (1, nv) for every nv of ``vectors``.
        vectors: vectors of channels to compute at once, largest first.
        sums: accumulators wanted at once; where ``nv`` vectors are fewer, each gets several.
        chunk: groups that ``inner`` takes at once.
        unroll: groups of a full step.
    """

    inner: MicroKernel
    vectors: Sequence[int]
    sums: int = 8
    chunk: int = 1
    unroll: int = 4

    @property
    def a_dtype(self) -> str:
        """Element type of the row, as read."""
        return self.inner.a_dtype

    @property
    def b_dtype(self) -> str:
        """Element type of the packed weights."""
        return self.inner.b_dtype

    @property
    def lanes(self) -> int:
        """Output channels in a result vector."""
        return self.inner.lanes

    @property
    def group(self) -> int:
        """K values of one dot."""
        return self.inner.group

    @property
    def tiles(self) -> Sequence[tuple[int, int]]:
        """Register tiles."""
        return tuple((1, nv) for nv in self.vectors)

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
