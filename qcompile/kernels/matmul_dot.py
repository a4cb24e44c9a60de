"""Products of two 8-bit activations by dot instructions: B is brought into their order, in scratch, first.

What the zero points add is made good afterwards:

    Σ (a − z_a)(b − z_b) = Σ a·b − z_a Σ b − z_b Σ a + K·z_a·z_b

with the sums over columns of B in what the accumulators start at, those over rows of A added at the end. The
instruction multiplies unsigned by signed bytes, so B's codes are read as b − 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Register,
    bitcast,
    const,
    equal,
    index,
    quotient,
    remainder,
    shuffle,
    splat,
)
from qcompile.kernels.emit import Emitter
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.vnni import VnniMicroKernel
from qcompile.kernels.vnni_depthwise import dot

if TYPE_CHECKING:
    from qcompile.kernels.matmul import MatmulWorkload

Bases = Callable[[Builder, Index], tuple[Expr, Expr]]

_GROUP = 4
_TILES = {4: 6, 2: 12, 1: 24}
"""Rows of a register tile by its vectors of columns."""

_WANTED_ITEMS, _LEAST_ROWS = 8, 32
_LARGEST = 1 << 17
"""Bytes of B that are worth a copy in the second-level cache."""


def takes(work: MatmulWorkload, isa: Isa) -> bool:
    """Return whether a product is one of whole vectors of unsigned codes, with rows enough to pay for the order."""
    micro = isa.int8
    return (
        work.integer
        and isinstance(micro, VnniMicroKernel)
        and work.stored[:2] == ("uint8", "uint8")
        and work.columns % micro.lanes == 0
        and work.inner % _GROUP == 0
        and work.rows >= _LEAST_ROWS // 2
        and work.inner * work.columns <= _LARGEST
    )


def dot_kernel(work: MatmulWorkload, isa: Isa, bases: Bases) -> Kernel:
    """Generate the kernel; arguments as those of `matmul_kernel`.

    Args:
        work: one that `takes` says yes to.
        isa: instruction set.
        bases: f(builder, entry) gives the first elements of A's and B's matrices of a batch entry.
    """
    return _DotProduct(work, isa, bases).kernel()


class _DotProduct:
    """Emits one product; a parallel item is some rows of one batch entry."""

    def __init__(self, work: MatmulWorkload, isa: Isa, bases: Bases) -> None:
        self.work, self.isa, self.b, self.bases = work, isa, Builder(), bases
        b, self.lanes = self.b, isa.int8.lanes
        self.a, self.right, self.c = (b.argument(n, work.stored[n]) for n in range(3))
        self.packed, self.starts = b.scratch("int8"), b.scratch("int32")
        vectors = work.columns // self.lanes
        self.nv = next(nv for nv in (4, 2, 1) if vectors % nv == 0)
        entries = math.prod(work.batch)
        self.parts = max(1, min(-(-_WANTED_ITEMS // entries), work.rows // _LEAST_ROWS))
        self.height = -(-work.rows // self.parts)
        self.parts = -(-work.rows // self.height)

    @property
    def _first_start(self) -> int:
        """Where in scratch, int32, the accumulators' starts lie: behind the packed codes."""
        return -(-self.work.inner * self.work.columns // 64) * 16

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work = self.b, self.work
        entries = math.prod(work.batch)
        with b.loop(b.end - b.begin, b.begin, stem="item") as item:
            part = b.let(remainder(item, self.parts)) if self.parts > 1 else 0
            entry = b.let(quotient(item, self.parts)) if self.parts > 1 else item
            a, right = self.bases(b, entry)
            self._pack(right)
            row = b.let(index(part) * index(self.height))
            first = b.let(a + row * index(work.inner))
            to = b.let((index(entry) * index(work.rows) + row) * index(work.columns))
            last = work.rows - (self.parts - 1) * self.height
            if last == self.height:
                self._rows(first, to, last)
            else:
                with b.when(equal(part, self.parts - 1)):
                    self._rows(first, to, last)
                with b.when(index(part) < index(self.parts - 1)):
                    self._rows(first, to, self.height)
        name = symbol("matmul by dots", work.text(), self.isa.name)
        scratch = self._first_start * 4 + -(-work.columns * 4 // 64) * 64
        levels = ((entries, work.rows * work.columns), (self.parts, self.height * work.columns))
        return Kernel(name, b.function(name), entries * self.parts, scratch, levels)

    def _pack(self, right: Expr) -> None:
        """Bring four rows of B at a time to [block][K / 4][column][4], signed, and sum the columns."""
        b, work, wide = self.b, self.work, self.nv * self.lanes
        shift = self.work.zero_points[1] - 128
        groups, size = work.inner // _GROUP, 4 * self.lanes
        order = [row * self.lanes + column for column in range(self.lanes) for row in range(_GROUP)]
        za = work.zero_points[0]
        with b.loop(work.columns // self.lanes, stem="v") as v:
            sums = b.register(f"int32x{self.lanes}", const(0, f"int32x{self.lanes}"))
            column = b.let(index(v) * index(self.lanes))
            block = b.let(quotient(v, self.nv) * (groups * wide * _GROUP) + remainder(v, self.nv) * size)
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
            self.starts.store(column + self._first_start, start, self.lanes)

    def _rows(self, first: Expr, to: Expr, rows: int) -> None:
        """Emit the register tiles of some rows."""
        height = -(-rows // -(-rows // _TILES[self.nv]))
        whole, rest = divmod(rows, height)
        with self.b.loop(whole, stem="t") as t:
            self._tile_row(first, to, t * height, height)
        if rest:
            self._tile_row(first, to, whole * height, rest)

    def _tile_row(self, first: Expr, to: Expr, row: Index, height: int) -> None:
        b, work, wide = self.b, self.work, self.nv * self.lanes
        groups = work.inner // _GROUP
        a, c = b.let(first + row * work.inner), b.let(to + row * work.columns)
        corrections = self._row_sums(a, height)
        with b.loop(work.columns // wide, stem="n") as n:
            micro, bias = self.isa.int8, []
            for j in range(self.nv):
                bias.append(b.let(self.starts.load(n * wide + (self._first_start + j * self.lanes), self.lanes)))
            state = micro.start(b, height, self.nv, bias)
            block = b.let(index(n) * index(groups * wide * _GROUP))
            with b.loop(groups, stem="k", rolled=True) as k:
                rows = [a + (k * _GROUP + i * work.inner) for i in range(height)]
                micro.step(b, state, self.a, rows, self.packed, block + k * (wide * _GROUP), 1)
            for i in range(height):
                for j, total in enumerate(micro.result(b, state, i)):
                    if corrections:
                        total = b.let(total + corrections[i].get())
                    self._store(b.let(c + (n * wide + (i * work.columns + j * self.lanes))), total)

    def _row_sums(self, a: Expr, height: int) -> Sequence[Register]:
        """−z_b Σ a of each row, in every lane; nothing where z_b is 0."""
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

    def _store(self, at: Expr, total: Expr) -> None:
        assert self.work.finish is not None
        value = Emitter(self.b, self.isa, {}, {0: index(0)}, 0, self.lanes, total).value(self.work.finish)
        self.c.store(at, value, self.lanes)
