"""Products of two 8-bit activations by dot instructions: B is brought into their order, in scratch, first.

What the zero points add is made good afterwards:

    Σ (a − z_a)(b − z_b) = Σ a·b − z_a Σ b − z_b Σ a + K·z_a·z_b

with the sums over columns of B in what the accumulators start at, those over rows of A added at the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from qcompile.kernels.builder import Builder, Expr, Index, Register, equal, index, quotient, remainder, shuffle
from qcompile.kernels.emit import Emitter
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.matmul_workload import MatmulWorkload, matrix_bases
from qcompile.kernels.micro_kernel import MicroKernel

_WANTED_ITEMS, _LEAST_ROWS = 8, 32
_FINISHED_TOGETHER = 16
"""Sums that become codes at once, where a vector holds fewer."""

LARGEST = 1 << 17
"""Bytes of B that are worth a copy in the second-level cache."""


class DotProduct(ABC):
    """Emits one product; a parallel item is some rows of one batch entry.

    Args:
        work: the product.
        isa: instruction set.
        micro: its inner kernel; B is packed as this wants its weights.
        tiles: rows of a register tile by its vectors of columns.
    """

    def __init__(self, work: MatmulWorkload, isa: Isa, micro: MicroKernel, tiles: Sequence[tuple[int, int]]) -> None:
        self.work, self.isa, self.micro, self.b = work, isa, micro, Builder()
        b, self.lanes = self.b, micro.lanes
        self.a, self.right, self.c = (b.argument(n, work.stored[n]) for n in range(3))
        self.packed, self.starts = b.scratch("int8"), b.scratch("int32")
        self.vectors = -(-work.columns // self.lanes)
        self.mr, self.nv = next((mr, nv) for mr, nv in tiles if self.vectors % nv == 0)
        self.wide = self.nv * self.lanes
        self.groups = -(-work.inner // micro.group)
        entries = math.prod(work.batch)
        self.parts = max(1, min(-(-_WANTED_ITEMS // entries), work.rows // _LEAST_ROWS))
        self.height = -(-work.rows // self.parts)
        self.parts = -(-work.rows // self.height)

    @property
    def first_start(self) -> int:
        """Where in scratch, int32, the accumulators' starts lie: behind the packed codes."""
        return -(-self.groups * self.micro.group * self.vectors * self.lanes // 64) * 16

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work = self.b, self.work
        entries = math.prod(work.batch)
        with b.loop(b.end - b.begin, b.begin, stem="item") as item:
            part = b.let(remainder(item, self.parts)) if self.parts > 1 else 0
            entry = b.let(quotient(item, self.parts)) if self.parts > 1 else item
            a, right = matrix_bases(b, work, entry)
            self.pack(right)
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
        scratch = self.first_start * 4 + -(-self.vectors * self.lanes * 4 // 64) * 64
        levels = ((entries, work.rows * work.columns), (self.parts, self.height * work.columns))
        return Kernel(name, b.function(name), entries * self.parts, scratch, levels)

    @abstractmethod
    def pack(self, right: Expr) -> None:
        """Emit B's codes and what the accumulators start at, −z_a Σ b + K·z_a·z_b, into scratch.

        Args:
            right: first element of B's matrix.
        """

    @abstractmethod
    def row_sums(self, a: Expr, height: int) -> Sequence[Register]:
        """Emit −z_b Σ a of each row, in every lane; nothing where z_b is 0.

        Args:
            a: first element of the first row.
            height: rows.
        """

    def block(self, column: Index) -> Expr:
        """Where in scratch the packed codes of the block of `wide` columns that starts at a column lie."""
        return quotient(column, self.wide) * index(self.groups * self.wide * self.micro.group)

    def _rows(self, first: Expr, to: Expr, rows: int) -> None:
        """Emit the register tiles of some rows."""
        height = -(-rows // -(-rows // self.mr))
        whole, rest = divmod(rows, height)
        with self.b.loop(whole, stem="t") as t:
            self._tile_row(first, to, t * height, height)
        if rest:
            self._tile_row(first, to, whole * height, rest)

    def _tile_row(self, first: Expr, to: Expr, row: Index, height: int) -> None:
        b, work = self.b, self.work
        a, c = b.let(first + row * work.inner), b.let(to + row * work.columns)
        corrections = self.row_sums(a, height)
        whole = work.columns // self.wide
        if whole:
            with b.loop(whole, stem="n") as n:
                self._tile(a, c, b.let(index(n) * index(self.wide)), height, self.wide, corrections)
        if work.columns % self.wide:
            self._tile(a, c, index(whole * self.wide), height, work.columns % self.wide, corrections)

    def _tile(self, a: Expr, c: Expr, column: Expr, height: int, columns: int, corrections: Sequence[Register]) -> None:
        """Emit one register tile over the whole of K; its last vectors may reach past the last column."""
        b, micro = self.b, self.micro
        starts = [self.starts.load(column + (self.first_start + j * self.lanes), self.lanes) for j in range(self.nv)]
        state = micro.start(b, height, self.nv, [b.let(start) for start in starts])
        block = b.let(self.block(column))
        whole, rest = divmod(self.groups, micro.unroll)
        if whole:
            with b.loop(whole, stem="k", rolled=True) as k:
                self._step(state, a, block, index(k) * index(micro.unroll), height, micro.unroll)
        if rest:
            self._step(state, a, block, index(whole * micro.unroll), height, rest)
        per = max(1, min(_FINISHED_TOGETHER // self.lanes, height * self.nv))
        totals: list[Expr] = []
        for i in range(height):
            for total in micro.result(b, state, i):
                totals.append(b.let(total + corrections[i].get()) if corrections else total)
                if len(totals) % per == 0 or len(totals) == height * self.nv:
                    self._store(c + column, totals, (len(totals) - 1) // per * per, columns)

    def _step(self, state: Any, a: Expr, block: Expr, group: Index, height: int, groups: int) -> None:
        at, size = self.b.let(group), self.micro.group
        rows = [a + (at * index(size) + i * self.work.inner) for i in range(height)]
        self.micro.step(self.b, state, self.a, rows, self.packed, block + at * index(self.wide * size), groups)

    def _store(self, c: Expr, totals: Sequence[Expr], first: int, columns: int) -> None:
        """Finish the totals from number `first` on, row after row of nv vectors each, and write their codes."""
        assert self.work.finish is not None
        sums = totals[first:]
        lanes = len(sums) * self.lanes
        joined = self.b.let(shuffle(sums, range(lanes))) if len(sums) > 1 else sums[0]
        value = Emitter(self.b, self.isa, {}, {0: index(0)}, 0, lanes, joined).value(self.work.finish)
        done = 0
        while done < lanes:
            row, start = divmod(first * self.lanes + done, self.wide)
            run = min(lanes - done, self.wide - start)
            for offset, size in _pieces(min(run, columns - start)):
                part = value if size == lanes else shuffle([value], range(done + offset, done + offset + size))
                self.c.store(c + (row * self.work.columns + start + offset), part, size)
            done += run


def _pieces(count: int) -> list[tuple[int, int]]:
    """(start, size) of parts of powers of two, largest first."""
    found, done = [], 0
    while done < count:
        size = 1 << ((count - done).bit_length() - 1)
        found.append((done, size))
        done += size
    return found
