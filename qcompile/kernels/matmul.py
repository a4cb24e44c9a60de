"""Products of two activations, batch by batch: register tiles that read both operands where they lie.

Rows of B are vectors as they are, so nothing is packed; an element of A is repeated over the lanes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, Index, cast, const, equal, index, quotient, remainder, splat
from qcompile.kernels.emit import Emitter
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol

_ROWS = 6
_VECTORS = 2


@dataclass(frozen=True)
class MatmulWorkload:
    """c[batch, m, n] = Σ a[batch, m, k] · b[batch, k, n].

    Args:
        batch: extents of the result's leading axes.
        a_steps: elements of A from one index of each leading axis to the next; 0 where A is repeated.
        b_steps: likewise of B.
        rows: M.
        inner: K.
        columns: N.
        stored: element types in memory of A, B and C.
        zero_points: of A and B as they are stored; integers only.
        finish: C's element from the leaf "accumulator"; integers only.
    """

    batch: tuple[int, ...]
    a_steps: tuple[int, ...]
    b_steps: tuple[int, ...]
    rows: int
    inner: int
    columns: int
    stored: tuple[str, str, str] = ("float32", "float32", "float32")
    zero_points: tuple[int, int] = (0, 0)
    finish: ex.Expr | None = None

    @property
    def integer(self) -> bool:
        """Whether the operands are codes."""
        return self.finish is not None

    def text(self) -> str:
        """Return what decides the code."""
        parts = (self.batch, self.a_steps, self.b_steps, self.rows, self.inner, self.columns, self.stored)
        return f"{parts}{self.zero_points}{ex.text((self.finish,)) if self.finish is not None else ''}"


def matmul_kernel(work: MatmulWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 is A, p1 is B, p2 is C."""
    return _Product(work, isa).kernel()


class _Product:
    """Emits one product; a parallel item is a block of rows of one batch entry."""

    def __init__(self, work: MatmulWorkload, isa: Isa) -> None:
        self.work, self.isa, self.b = work, isa, Builder()
        self.a, self.right, self.c = (self.b.argument(n, work.stored[n]) for n in range(3))
        self.lanes = isa.float32.lanes
        blocks = -(-work.rows // _ROWS)
        self.height = -(-work.rows // blocks)
        self.blocks = -(-work.rows // self.height)

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work = self.b, self.work
        tiles = math.prod(work.batch) * self.blocks
        with b.loop(b.end - b.begin, b.begin, stem="tile") as tile:
            block = b.let(remainder(tile, self.blocks)) if self.blocks > 1 else 0
            entry = b.let(quotient(tile, self.blocks)) if self.blocks > 1 else tile
            a_base, b_base = self._bases(entry)
            row = b.let(index(block) * index(self.height))
            a_start = b.let(a_base + row * index(work.inner))
            c_start = b.let((index(entry) * index(work.rows) + row) * index(work.columns))
            last = work.rows - (self.blocks - 1) * self.height
            if last == self.height:
                self._row_block(a_start, b_base, c_start, self.height)
            else:
                with b.when(equal(block, self.blocks - 1)):
                    self._row_block(a_start, b_base, c_start, last)
                if self.blocks > 1:
                    with b.when(index(block) < index(self.blocks - 1)):
                        self._row_block(a_start, b_base, c_start, self.height)
        name = symbol("matmul", work.text(), self.isa.name)
        return Kernel(name, b.function(name), tiles, 0)

    def _bases(self, entry: Index) -> tuple[Expr, Expr]:
        """First elements of A's and B's matrices of a batch entry."""
        b, work = self.b, self.work
        a_base, b_base, rest = index(0), index(0), index(entry)
        for axis in reversed(range(len(work.batch))):
            at = b.let(remainder(rest, work.batch[axis])) if axis else rest
            rest = b.let(quotient(rest, work.batch[axis])) if axis else rest
            a_base = a_base + at * index(work.a_steps[axis])
            b_base = b_base + at * index(work.b_steps[axis])
        return b.let(a_base), b.let(b_base)

    def _row_block(self, a: Expr, right: Expr, c: Expr, height: int) -> None:
        wide = self.lanes * _VECTORS
        whole = self.work.columns // wide
        if whole:
            with self.b.loop(whole, stem="n") as n:
                self._tile(a, right, c, height, self.b.let(index(n) * index(wide)), [self.lanes] * _VECTORS)
        for start, widths in _column_blocks(whole * wide, self.work.columns, self.lanes):
            self._tile(a, right, c, height, index(start), widths)

    def _tile(self, a: Expr, right: Expr, c: Expr, height: int, column: Expr, widths: Sequence[int]) -> None:
        """Emit one register tile over the whole of K."""
        b, work = self.b, self.work
        kind = "int32" if work.integer else "float32"
        starts = [sum(widths[:n]) for n in range(len(widths))]
        sums = [[b.register(_wide(kind, w), const(0, _wide(kind, w))) for w in widths] for _ in range(height)]
        with b.loop(work.inner, stem="k") as k:
            at = b.let(right + index(k) * index(work.columns) + column)
            vectors = [self._load_right(at + index(s), w) for s, w in zip(starts, widths, strict=True)]
            for row, totals in enumerate(sums):
                value = self._load_left(a + index(row * work.inner) + index(k))
                for total, vector, width in zip(totals, vectors, widths, strict=True):
                    total.set(total.get() + splat(value, width) * vector)
        for row, totals in enumerate(sums):
            for total, start, width in zip(totals, starts, widths, strict=True):
                at = b.let(c + index(row * work.columns + start) + column)
                self.c.store(at, self._finished(b.let(total.get()), width), width)

    def _load_left(self, at: Expr) -> Expr:
        value = self.a.load(at)
        if not self.work.integer:
            return self.b.let(value)
        return self.b.let(cast("int32", value) - const(self.work.zero_points[0], "int32"))

    def _load_right(self, at: Expr, width: int) -> Expr:
        value = self.right.load(at, width)
        if not self.work.integer:
            return self.b.let(value)
        kind = _wide("int32", width)
        return self.b.let(cast(kind, value) - const(self.work.zero_points[1], kind))

    def _finished(self, total: Expr, width: int) -> Expr:
        if self.work.finish is None:
            return total
        return Emitter(self.b, self.isa, {}, {0: index(0)}, 0 if width > 1 else None, width, total).value(
            self.work.finish
        )


def _wide(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def _column_blocks(start: int, end: int, lanes: int) -> list[tuple[int, list[int]]]:
    """Cut the columns after the last whole block into tiles of at most two vectors, powers of two."""
    widths: list[int] = []
    left, size = end - start, lanes
    while left:
        if size <= left:
            widths.append(size)
            left -= size
        else:
            size //= 2
    blocks = []
    for first in range(0, len(widths), _VECTORS):
        blocks.append((start + sum(widths[:first]), widths[first : first + _VECTORS]))
    return blocks
