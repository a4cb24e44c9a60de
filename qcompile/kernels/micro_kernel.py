"""The inner kernels of convolutions and matrix products: what generators ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from qcompile.errors import InternalError
from qcompile.kernels.builder import Builder, Expr, Index, Memory, vector_type


class MicroKernel(ABC):
    """Multiplies ``mr`` rows of A by ``nv`` vectors of ``lanes`` output channels in registers.

    Attributes:
        a_dtype: element type of the rows as the kernel reads them; where it differs from the
            stored activations, the generator widens rows into scratch first.
        b_dtype: element type of the packed weights.
        lanes: output channels in one vector of weights.
        group: K values a packed channel keeps together; runs of K are padded to it with zero
            weights, so up to ``group * unroll - 1`` elements of A past a run may be read, and
            must not matter (integers only, or see ``exact``).
        unroll: groups which one full step consumes.
        tiles: register tiles (mr, nv) worth trying, largest first.
        sum_dtype: element type of the sums.
        fused: whether float products and sums are rounded once.
        chunks: sizes in groups, the last 1; a step's groups are cut into such (``micro.in_chunks``), and the packed
            weights are ``[chunk][nv * lanes][group * size]``.
        starts_at_zero: the first step costs less if LLVM sees that it is the first.
        gather_cycles: what laying 16 pixels beside others costs.
        block: values of K after which ``flush`` is to be called; 0: never.
        exact: nothing past a run may be read: what fills no group is left to ``partial``.
    """

    a_dtype: str
    b_dtype: str
    lanes: int
    group: int
    unroll: int
    tiles: Sequence[tuple[int, int]]
    sum_dtype: str = "int32"
    fused: bool = True
    chunks: Sequence[int] = (1,)
    starts_at_zero: bool = False
    gather_cycles: float = 6.0
    block: int = 0
    exact: bool = False

    @property
    def short_unroll(self) -> int:
        """Groups of a full step where K has less than two of ``unroll``."""
        return self.unroll

    @property
    def result_lanes(self) -> int:
        """Output channels in a vector of bias or results."""
        return self.lanes

    @abstractmethod
    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one group (``mr * nv * lanes * group`` products)."""

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Emit accumulators that start at ``bias`` (nv vectors); returns the kernel's own state."""
        kind = vector_type(self.sum_dtype, self.lanes)
        return [[b.register(kind, bias[j]) for j in range(nv)] for _ in range(mr)]

    @abstractmethod
    def step(self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int) -> None:
        """Emit ``groups`` (1..unroll) dot groups.

        Args:
            b: builder.
            state: what ``start`` returned.
            a: activations, elements of ``a_dtype``.
            rows: element index of the first K value, one per row (mr of them).
            w: packed weights, elements of ``b_dtype``.
            at: element index of the first group in ``w``; the next follows nv*lanes*group later.
            groups: number of groups.
        """

    def partial(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, values: int
    ) -> None:
        """Emit the values at the end of a run that fill no group; arguments as for ``step``."""
        raise InternalError(f"{self} reads whole groups")

    def flush(self, b: Builder, state: Any) -> None:
        """Emit what is due after each block of K."""
        raise InternalError(f"{self} knows no blocks of K")

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """Finished sums of one row, bias included: vectors of ``result_lanes``."""
        return [b.let(total.get()) for total in state[row]]
