"""Products of two 8-bit activations on AArch64, by ``sdot``, ``smmla``, or ``smull`` and ``sadalp``.

B's rows are interleaved by zips, as many as an instruction takes values of K; rows past the last are zeros, so that
what follows a row of A in memory does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcompile.kernels.builder import Expr, Index, Register, call_pure, cast, const, index, shuffle, splat
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel
from qcompile.kernels.matmul_dot import LARGEST, DotProduct
from qcompile.kernels.matmul_workload import MatmulWorkload
from qcompile.kernels.micro_kernel import MicroKernel
from qcompile.kernels.transpose import interleave

_LEAST_ROWS = 8
_VECTOR = 16
_WIDTHS = (4, 2, 1)
"""Vectors of columns of a tile: their codes fill a register, a half or a quarter."""


def takes(work: MatmulWorkload, isa: Isa) -> bool:
    """Return whether a product is one of signed codes, with rows enough to pay for the order."""
    return (
        work.integer
        and isa.product_int8 is not None
        and work.stored[:2] == ("int8", "int8")
        and work.rows >= _LEAST_ROWS
        and work.inner * work.columns <= LARGEST
    )


def neon_kernel(work: MatmulWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; pointers as those of `matmul_kernel`.

    Args:
        work: one that `takes` says yes to.
        isa: instruction set.
    """
    assert isa.product_int8 is not None
    return _NeonProduct(work, isa, isa.product_int8, _tiles(isa.product_int8)).kernel()


def _tiles(micro: MicroKernel) -> list[tuple[int, int]]:
    """Register tiles, those with the fewest cycles per product first; of equals the one with most columns."""
    wanted = [tile for tile in micro.tiles if tile[1] in _WIDTHS]
    return sorted(wanted, key=lambda tile: (micro.cycles(*tile) / (tile[0] * tile[1]), -tile[1]))


class _NeonProduct(DotProduct):
    @property
    def _span(self) -> int:
        """Columns that are packed together: whole blocks, at most a register of codes."""
        columns = self.vectors * self.lanes
        return next(span for span in (_VECTOR, 8, 4) if columns % span == 0 and span % self.wide == 0)

    def pack(self, right: Expr) -> None:
        """Bring `group` rows of B at a time to [block][K / group][column][group], and sum the columns."""
        b, work, group, span = self.b, self.work, self.micro.group, self._span
        za, zb = work.zero_points
        wide = f"int32x{span}"
        with b.loop(self.vectors * self.lanes // span, stem="v") as v:
            column = b.let(index(v) * index(span))
            sums = b.register(wide, const(0, wide))
            whole, rest = divmod(work.inner, group)
            if whole:
                with b.loop(whole, stem="k", rolled=True) as k:
                    self._pack_group(b.let(right + column), column, k, group, sums)
            if rest:
                self._pack_group(b.let(right + column), column, whole, rest, sums)
            start = const(work.inner * za * zb, wide)
            if za:
                start = start - sums.get() * const(za, wide)
            self.starts.store(column + self.first_start, start, span)

    def _pack_group(self, source: Expr, column: Expr, k: Index, count: int, sums: Register) -> None:
        b, group, span = self.b, self.micro.group, self._span
        at = b.let(source + index(k) * index(group * self.work.columns))
        rows = [b.let(self.right.load(at + n * self.work.columns, span)) for n in range(count)]
        if self.work.zero_points[0]:
            short = f"int16x{span}"
            total = cast(short, rows[0])
            for row in rows[1:]:
                total = total + cast(short, row)
            sums.set(sums.get() + cast(sums.dtype, b.let(total)))
        zeros = [const(0, f"int8x{span}")] * (group - count)
        pieces = interleave(b, rows + zeros)
        to = b.let(self.block(column) + index(k) * index(self.wide * group))
        for number, piece in enumerate(pieces):
            first = number * span
            block, offset = divmod(first, self.wide * group)
            place = block * self.groups * self.wide * group + offset
            self.packed.store(to + place, piece, span)

    def row_sums(self, a: Expr, height: int) -> Sequence[Register]:
        """Pairwise sums of 16 codes at a time."""
        b, zero, inner = self.b, self.work.zero_points[1], self.work.inner
        if not zero:
            return []
        sums = [b.register("int32x4", const(0, "int32x4")) for _ in range(height)]
        whole, rest = divmod(inner, _VECTOR)
        if whole:
            with b.loop(whole, stem="k", rolled=True) as k:
                for i, total in enumerate(sums):
                    codes = b.let(self.a.load(a + (index(k) * index(_VECTOR) + i * inner), _VECTOR))
                    total.set(total.get() + _pairwise(codes))
        if rest:
            kept = [*range(rest), *[_VECTOR] * (_VECTOR - rest)]
            for i, total in enumerate(sums):
                codes = b.let(self.a.load(a + (whole * _VECTOR + i * inner), _VECTOR))
                total.set(total.get() + _pairwise(b.let(shuffle([codes, const(0, "int8x16")], kept))))
        for total in sums:
            whole_sum = b.let(call_pure("int32", "llvm.vector.reduce.add.v4i32", total.get()))
            total.set(splat(whole_sum * const(-zero, "int32"), 4))
        return sums


def _pairwise(codes: Expr) -> Expr:
    """Four sums of four neighbouring codes each."""
    words = call_pure("int16x8", "llvm.aarch64.neon.saddlp.v8i16.v16i8", codes)
    return call_pure("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", words)
