"""Products of two activations, batch by batch: register tiles that read both operands where they lie.

Rows of B are vectors as they are, so nothing is packed; an element of A is repeated over the lanes.

Codes are multiplied as floats, since every machine has its widest multiply-add there: products of two centred
codes are at most 255², so that the sum of 256 of them is a whole number below 2^24 and exact, fused or not. Longer
sums are carried on in int32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompile.kernels import matmul_neon, matmul_vnni
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Register,
    cast,
    const,
    equal,
    index,
    quotient,
    remainder,
    splat,
    vector_type,
)
from qcompile.kernels.emit import Emitter
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.matmul_workload import MatmulWorkload, matrix_bases

_ROWS = 6
_VECTORS = 2
_EXACT_TERMS = 256
"""Products of codes that a float32 sums exactly: 256 · 255² < 2^24."""


def matmul_kernel(work: MatmulWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 is A, p1 is B, p2 is C."""
    for takes, kernel in ((matmul_vnni.takes, matmul_vnni.vnni_kernel), (matmul_neon.takes, matmul_neon.neon_kernel)):
        if takes(work, isa):
            return kernel(work, isa)
    return _Product(work, isa).kernel()


class _Product:
    """Emits one product; a parallel item is a block of rows of one batch entry."""

    def __init__(self, work: MatmulWorkload, isa: Isa) -> None:
        self.work, self.isa, self.b = work, isa, Builder()
        self.a, self.right, self.c = (self.b.argument(n, work.stored[n]) for n in range(3))
        self.left = self.b.scratch("float32") if work.integer else self.a
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
            a_base, b_base = matrix_bases(b, work, entry)
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
        scratch = -(-self.height * work.inner * 4 // 64) * 64 if work.integer else 0
        levels = ((math.prod(work.batch), work.rows * work.columns), (self.blocks, self.height * work.columns))
        return Kernel(name, b.function(name), tiles, scratch, levels)

    def _row_block(self, a: Expr, right: Expr, c: Expr, height: int) -> None:
        if self.work.integer:
            self._centre(a, height)
            a = index(0)
        wide = self.lanes * _VECTORS
        whole = self.work.columns // wide
        if whole:
            with self.b.loop(whole, stem="n") as n:
                self._tile(a, right, c, height, self.b.let(index(n) * index(wide)), [self.lanes] * _VECTORS)
        for start, widths in _column_blocks(whole * wide, self.work.columns, self.lanes):
            self._tile(a, right, c, height, index(start), widths)

    def _centre(self, first: Expr, height: int) -> None:
        """Bring the rows of A to scratch as floats relative to their zero point; they lie one after another."""
        b, count = self.b, height * self.work.inner
        whole = count // self.lanes
        if whole:
            with b.loop(whole, stem="v") as v:
                at = b.let(index(v) * index(self.lanes))
                self.left.store(at, self._centred(0, first + at, self.lanes), self.lanes)
        if count % self.lanes:
            with b.loop(count % self.lanes, whole * self.lanes, stem="e") as e:
                self.left.store(index(e), self._centred(0, first + index(e), 1))

    def _tile(self, a: Expr, right: Expr, c: Expr, height: int, column: Expr, widths: Sequence[int]) -> None:
        """Emit one register tile over the whole of K."""
        b, work = self.b, self.work
        tile = _Tile(a, b.let(right + column), widths, self._registers("float32", height, widths))
        if not work.integer or work.inner <= _EXACT_TERMS:
            self._products(tile, index(0), work.inner)
            totals = tile.sums
        else:
            totals = self._registers("int32", height, widths)
            whole, rest = divmod(work.inner, _EXACT_TERMS)
            with b.loop(whole, stem="part") as part:
                self._carry(tile, b.let(index(part) * index(_EXACT_TERMS)), _EXACT_TERMS, totals)
            if rest:
                self._carry(tile, index(whole * _EXACT_TERMS), rest, totals)
        for row, line in enumerate(totals):
            for total, start, width in zip(line, tile.starts, widths, strict=True):
                at = b.let(c + index(row * work.columns + start) + column)
                self.c.store(at, self._finished(b.let(total.get()), width), width)

    def _registers(self, kind: str, height: int, widths: Sequence[int]) -> list[list[Register]]:
        zeros = [(vector_type(kind, width), const(0, vector_type(kind, width))) for width in widths]
        return [[self.b.register(*zero) for zero in zeros] for _ in range(height)]

    def _products(self, tile: _Tile, first: Expr, count: int) -> None:
        """Add the products of `count` values of K."""
        b, work = self.b, self.work
        with b.loop(count, stem="k") as k:
            here = b.let(first + index(k))
            at = b.let(tile.right + here * index(work.columns))
            vectors = [self._load(1, at + index(s), w) for s, w in zip(tile.starts, tile.widths, strict=True)]
            for row, totals in enumerate(tile.sums):
                value = self._load(0, tile.a + index(row * work.inner) + here, 1)
                for total, vector, width in zip(totals, vectors, tile.widths, strict=True):
                    total.set(total.get() + splat(value, width) * vector)

    def _carry(self, tile: _Tile, first: Expr, count: int, totals: list[list[Register]]) -> None:
        """Add the exact products of a part of K to int32 totals."""
        for line in tile.sums:
            for partial in line:
                partial.set(const(0, partial.dtype))
        self._products(tile, first, count)
        for line, partials in zip(totals, tile.sums, strict=True):
            for total, partial in zip(line, partials, strict=True):
                total.set(total.get() + cast(total.dtype, partial.get()))

    def _load(self, operand: int, at: Expr, lanes: int) -> Expr:
        """Return elements of A or B as floats."""
        if operand == 0:
            return self.b.let(self.left.load(at, lanes))
        return self._centred(1, at, lanes) if self.work.integer else self.b.let(self.right.load(at, lanes))

    def _centred(self, operand: int, at: Expr, lanes: int) -> Expr:
        """Return codes of A or B relative to their zero point, as floats."""
        kind = vector_type("int32", lanes)
        codes = (self.a, self.right)[operand].load(at, lanes)
        centred = cast(kind, codes) - const(self.work.zero_points[operand], kind)
        return self.b.let(cast(vector_type("float32", lanes), centred))

    def _finished(self, total: Expr, width: int) -> Expr:
        if self.work.finish is None:
            return total
        if str(total.ty.dtype).startswith("float"):
            total = self.b.let(cast(vector_type("int32", width), total))
        return Emitter(self.b, self.isa, {}, {0: index(0)}, 0 if width > 1 else None, width, total).value(
            self.work.finish
        )


@dataclass(frozen=True)
class _Tile:
    """One register tile.

    Args:
        a: first element of the rows of A.
        right: first element of the columns of B.
        widths: elements of each vector.
        sums: float registers, rows by vectors.
    """

    a: Expr
    right: Expr
    widths: Sequence[int]
    sums: list[list[Register]]

    @property
    def starts(self) -> list[int]:
        """Column of each vector, relative to the tile."""
        return [sum(self.widths[:n]) for n in range(len(self.widths))]


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
