"""Products of two 8-bit activations by ``vpdpbusd``: unsigned codes of A meet those of B, read as b − 128."""

from __future__ import annotations

from collections.abc import Sequence

from qcompile.kernels.builder import Expr, Register, bitcast, const, index, remainder, shuffle, splat
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel
from qcompile.kernels.matmul_dot import LARGEST, DotProduct
from qcompile.kernels.matmul_workload import MatmulWorkload
from qcompile.kernels.vnni import VnniMicroKernel
from qcompile.kernels.vnni_depthwise import dot

_GROUP, _LEAST_ROWS = 4, 16
_TILES = ((6, 4), (12, 2), (24, 1))


def takes(work: MatmulWorkload, isa: Isa) -> bool:
    """Return whether a product is one of whole vectors of unsigned codes, with rows enough to pay for the order."""
    return (
        work.integer
        and isinstance(isa.int8, VnniMicroKernel)
        and work.stored[:2] == ("uint8", "uint8")
        and work.columns % isa.int8.lanes == 0
        and work.inner % _GROUP == 0
        and work.rows >= _LEAST_ROWS
        and work.inner * work.columns <= LARGEST
    )


def vnni_kernel(work: MatmulWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; pointers as those of `matmul_kernel`.

    Args:
        work: one that `takes` says yes to.
        isa: instruction set.
    """
    return _VnniProduct(work, isa, isa.int8, _TILES).kernel()


class _VnniProduct(DotProduct):
    def pack(self, right: Expr) -> None:
        """Bring four rows of B at a time to [block][K / 4][column][4], signed, and sum the columns."""
        b, work, wide = self.b, self.work, self.wide
        shift = self.work.zero_points[1] - 128
        groups, size = work.inner // _GROUP, 4 * self.lanes
        order = [row * self.lanes + column for column in range(self.lanes) for row in range(_GROUP)]
        za = work.zero_points[0]
        with b.loop(work.columns // self.lanes, stem="v") as v:
            sums = b.register(f"int32x{self.lanes}", const(0, f"int32x{self.lanes}"))
            column = b.let(index(v) * index(self.lanes))
            block = b.let(self.block(column) + remainder(v, self.nv) * size)
            source = b.let(right + column)
            with b.loop(groups, stem="k") as k:
                at = b.let(source + k * (_GROUP * work.columns))
                rows = [b.let(self.right.load(at + row * work.columns, self.lanes)) for row in range(_GROUP)]
                codes = b.let(shuffle(rows, order) ^ const(128, f"uint8x{size}"))
                signed = b.let(bitcast(f"int8x{size}", codes))
                self.packed.store(b.let(block + k * (wide * _GROUP)), signed, size)
                if za:
                    sums.set(dot(sums.get(), const(1, f"uint8x{size}"), signed))
            start = const(work.inner * za * shift, f"int32x{self.lanes}")
            if za:
                start = start - sums.get() * const(za, f"int32x{self.lanes}")
            self.starts.store(column + self.first_start, start, self.lanes)

    def row_sums(self, a: Expr, height: int) -> Sequence[Register]:
        """Dots with ones."""
        b, shift, wide = self.b, self.work.zero_points[1] - 128, f"int32x{self.lanes}"
        if not shift:
            return []
        sums = [b.register(wide, const(0, wide)) for _ in range(height)]
        with b.loop(self.work.inner // _GROUP, stem="k", rolled=True) as k:
            for i, total in enumerate(sums):
                four = bitcast("int32", self.a.load(a + (k * _GROUP + i * self.work.inner), _GROUP))
                codes = bitcast(f"uint8x{4 * self.lanes}", splat(four, self.lanes))
                total.set(dot(total.get(), codes, const(1, f"int8x{4 * self.lanes}")))
        for total in sums:
            total.set(total.get() * const(-shift, wide))
        return sums
