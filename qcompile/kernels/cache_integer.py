"""Attention over an int8 cache in integers: new rows become codes in scratch, four codes at a time meet the cache's.

Rows of the cache lie as they were appended; four of them are interleaved in registers, within their parts of 16 bytes,
which puts the sums into another order than the elements'. That is mended once, when they are stored. Queries that share
a head of the cache, or are new at once, read it together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Register,
    bitcast,
    cast,
    const,
    index,
    lanes_of,
    quotient,
    remainder,
    shuffle,
    splat,
    vector_type,
)
from qcompile.kernels.cache_workload import CacheWorkload, spans
from qcompile.kernels.isa import ByteDots, Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.math import ROUND, ROUND_BITS
from qcompile.quant.cache_codes import LARGEST_CODE, LARGEST_SHARE, LEAST_PEAK, SHARE_BLOCK

_GROUP, _PART = 4, 16
_VECTORS_AHEAD, _ROWS_AHEAD = 2, 32
"""How far before its use a line of the cache is asked for: lines of keys lie far apart."""

_LOW = 7
"""Bits of the lower plane of a share: both planes are then codes with or without sign."""


def integer_cache_kernel(work: CacheWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; arguments as those of `cache_kernel`."""
    return (_Scores if work.kind == "scores" else _Mix)(work, isa).kernel()


@dataclass(frozen=True)
class _Row:
    """A new row in scratch.

    Args:
        codes: first element of its codes, int32.
        bytes: first element of its planes of bytes.
        y: first element of its result.
        factor: what its sums are multiplied by.
    """

    codes: Index
    bytes: tuple[Index, ...]
    y: Expr
    factor: Expr


class _Product(ABC):
    """Emits one product; an item of work is a head of the cache."""

    planes = 1
    rows_at_once = 4

    def __init__(self, work: CacheWorkload, isa: Isa) -> None:
        self.work, self.isa, self.b = work, isa, Builder()
        self.dots, self.lanes = isa.byte_dots, isa.vector_bytes // 4
        b = self.b
        self.x, self.cache = b.argument(0, "float32"), b.argument(1, "int8")
        self.scales, self.y = b.argument(4, "float32"), b.argument(5, "float32")
        self.total, self.before, self.after = (b.argument(number, "int64") for number in (2, 3, 6))
        self.codes, self.bytes = b.scratch("int32"), b.scratch("int8")
        self.length = -(-(work.size if work.kind == "scores" else work.places) // 64) * 64
        # With sixteen registers, vectors of 32 bytes, there is room for the sums of half as many rows.
        most = self.rows_at_once // 2 if isa.vector_bytes == 32 else self.rows_at_once
        self.rows = min(most, max(work.shared, work.new))

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work = self.b, self.work
        with b.loop(b.end - b.begin, b.begin, stem="head") as head:
            total = b.let(self.total.load(index(0)))
            first = b.let(index(head) * index(work.shared * work.new))
            if work.new == 1:
                for row in range(0, work.shared, self.rows):
                    self._together(head, first + index(row), min(self.rows, work.shared - row), total)
            else:
                with b.loop(work.shared, stem="query") as query:
                    self._new_rows(head, b.let(first + index(query) * index(work.new)), total)
        name = symbol("integer cache", work, self.isa.name)
        scratch = self.rows * self.length * (4 + self.planes)
        return Kernel(name, b.function(name), work.heads // work.shared, scratch)

    def _new_rows(self, head: Expr, first: Expr, total: Expr) -> None:
        """Take the new rows of a query head in blocks, then the rest one by one."""
        b = self.b
        new = b.let(self.after.load(index(0)) - self.before.load(index(0)))
        count = b.let(tirx.Min(new, index(self.work.new)))
        whole = b.let(quotient(count, self.rows))
        with b.loop(whole, stem="block") as block:
            self._together(head, b.let(first + index(block) * index(self.rows)), self.rows, total)
        with b.loop(b.let(remainder(count, self.rows)), b.let(whole * index(self.rows)), stem="row") as row:
            self._together(head, b.let(first + index(row)), 1, total)

    @abstractmethod
    def _together(self, head: Expr, first: Expr, count: int, total: Expr) -> None:
        """Multiply new rows one behind the other."""

    # -- codes -----------------------------------------------------------------------------------------------

    def _quantize(self, number: int, count: Index, value: Callable[[Index, int], Expr], most: int) -> Expr:
        """Write the codes of a row to scratch, and return what one step is worth.

        Args:
            number: of the row.
            count: elements.
            value: f(element, lanes) loads some.
            most: largest code.
        """
        b, at = self.b, number * self.length
        peak = b.let(self._peak(at, count, value))
        inverse = b.settled(const(float(most), "float32") / tirx.Max(peak, const(LEAST_PEAK, "float32")))

        def encode(element: Index, lanes: int) -> None:
            kind = vector_type("float32", lanes)
            scaled = b.let(value(element, lanes) * splat(inverse, lanes))
            low = const(-float(most) if self.planes == 1 else 0.0, kind)
            clamped = b.let(tirx.Min(tirx.Max(scaled, low), const(float(most), kind)))
            bits = b.let(bitcast(vector_type("int32", lanes), b.let(clamped + const(ROUND, kind))))
            code = b.let(bits - const(ROUND_BITS, vector_type("int32", lanes)))
            self.codes.store(index(at) + element, code, lanes)
            for plane, part in enumerate(self._in_planes(code, lanes)):
                self.bytes.store(self._plane(number, plane) + element, cast(vector_type("int8", lanes), part), lanes)

        self._along(count, encode)
        return b.let(peak * const(1.0 / most, "float32"))

    def _in_planes(self, code: Expr, lanes: int) -> Sequence[Expr]:
        return [code]

    def _plane(self, number: int, plane: int) -> Expr:
        return index(self.rows * self.length * 4 + (number * self.planes + plane) * self.length)

    def _peak(self, at: int, count: Index, value: Callable[[Index, int], Expr]) -> Expr:
        """Return the largest magnitude of a row; its place in scratch is free yet."""
        b, lanes = self.b, self.lanes
        most = [b.register(vector_type("float32", n), const(0.0, vector_type("float32", n))) for n in (lanes, 1)]

        def compare(element: Index, size: int) -> None:
            loaded, total = b.let(value(element, size)), most[0 if size == lanes and lanes > 1 else 1]
            zero = const(0.0, vector_type("float32", size))
            larger = loaded if self.planes > 1 else tirx.Max(loaded, zero - loaded)
            total.set(tirx.Max(larger, total.get()))

        self._along(count, compare)
        if lanes > 1:
            self.codes.store(index(at), bitcast(vector_type("int32", lanes), most[0].get()), lanes)
            for lane in range(lanes):
                one = bitcast("float32", self.codes.load(index(at + lane)))
                most[1].set(tirx.Max(one, most[1].get()))
        return most[1].get()

    def _along(self, count: Index, body: Callable[[Index, int], None]) -> None:
        """Do something to all elements of a row: vectors, then single ones."""
        b, lanes = self.b, self.lanes
        whole = b.let(quotient(count, lanes))
        with b.loop(whole, stem="v") as v:
            body(b.let(index(v) * index(lanes)), lanes)
        start = b.let(index(whole) * index(lanes))
        with b.loop(b.let(index(count) - start), start, stem="e") as element:
            body(index(element), 1)

    # -- sums ------------------------------------------------------------------------------------------------

    def _sums(self, dots: ByteDots, vectors: Sequence[Expr], rows: Sequence[_Row], at: Index, to: _Tile) -> None:
        """Add the products of four rows of the cache with four codes of each new row."""
        b, size = self.b, self.isa.vector_bytes
        pieces = [b.let(piece) for piece in _in_parts(b, vectors)]
        flipped = self.work.kind == "scores" and not dots.signed
        if flipped:
            top = const(128, f"uint8x{size}")
            pieces = [b.let(bitcast(f"uint8x{size}", piece) ^ top) for piece in pieces]
        for row, planes in zip(rows, to, strict=True):
            for start, sums in zip(row.bytes, planes, strict=True):
                four = bitcast("int32", self.bytes.load(b.let(start + at), _GROUP))
                kind = "int8" if flipped or dots.signed else "uint8"
                codes = b.let(bitcast(f"{kind}x{size}", splat(four, self.lanes)))
                for total, piece in zip(sums, pieces, strict=True):
                    pair = (piece, codes) if flipped else (codes, piece)
                    total.set(dots.dot(total.get(), *pair))

    def _tile(self, rows: int, start: Callable[[int], Expr]) -> _Tile:
        """Declare the sums of some rows: planes, and vectors of each."""
        kind = f"int32x{self.lanes}"
        return [
            [[self.b.register(kind, start(row)) for _ in range(_GROUP)] for _ in range(self.planes)]
            for row in range(rows)
        ]

    def _prefetch(self, at: Expr) -> None:
        if self.isa.prefetches:
            self.cache.prefetch(at, 3)

    def _totals(self, rows: int, widths: Sequence[int]) -> list[list[Register]]:
        kinds = [vector_type("int32", width) for width in widths]
        return [[self.b.register(kind, const(0, kind)) for kind in kinds] for _ in range(rows)]

    def _add(self, rows: Sequence[_Row], here: Expr, place: Index, sums: Sequence[Sequence[Register]]) -> None:
        """Add the products of neighbours in the cache with one code of each new row."""
        b, lanes = self.b, lanes_of(sums[0][0].get())
        vectors = [self._plain(b.let(here + index(n * lanes)), lanes) for n in range(len(sums[0]))]
        for row, totals in zip(rows, sums, strict=True):
            code = splat(self.codes.load(index(row.codes) + index(place)), lanes)
            for total, vector in zip(totals, vectors, strict=True):
                total.set(total.get() + vector * code)

    def _plain(self, at: Index, lanes: int) -> Expr:
        return self.b.let(cast(vector_type("int32", lanes), self.cache.load(at, lanes)))


_Tile = list[list[list[Register]]]


class _Scores(_Product):
    """Queries by keys, places innermost."""

    def _together(self, head: Expr, first: Expr, count: int, total: Expr) -> None:
        b, work = self.b, self.work
        rows = []
        for number in range(count):
            source = b.let((first + index(number)) * index(work.size))

            def query(e: Index, n: int, s: Expr = source) -> Expr:
                return self.x.load(s + e, n)

            factor = self._quantize(number, work.size, query, LARGEST_CODE)
            y = b.let((first + index(number)) * index(work.places))
            rows.append(_Row(number * self.length, (self._plane(number, 0),), y, factor))
        keys, scales = b.let(head * index(work.size * work.places)), b.let(head * index(work.places))
        tile = self.isa.vector_bytes
        whole = work.places // tile
        if whole:
            needed = b.let(tirx.Min(quotient(total + index(tile - 1), tile), index(whole)))
            with b.loop(needed, stem="t") as t:
                at = b.let(index(t) * index(tile))
                if self.dots is not None:
                    self._by_dots(self.dots, rows, keys, scales, at)
                else:
                    self._by_elements(rows, keys, scales, at, [self.lanes] * _GROUP)
        for start, lanes in spans(whole * tile, work.places, self.lanes):
            self._by_elements(rows, keys, scales, index(start), [lanes])

    def _by_dots(self, dots: ByteDots, rows: Sequence[_Row], keys: Expr, scales: Expr, at: Expr) -> None:
        b, work, size = self.b, self.work, self.isa.vector_bytes
        kind = f"int32x{self.lanes}"
        starts = [const(0, kind) if dots.signed else splat(self._flip(row), self.lanes) for row in rows]
        sums = self._tile(len(rows), lambda row: starts[row])
        whole, rest = divmod(work.size, _GROUP)

        def load(d: Index) -> Expr:
            here = b.let(keys + index(d) * index(work.places) + at)
            self._prefetch(here + index(_VECTORS_AHEAD * size))
            return b.let(self.cache.load(here, size))

        if whole:
            with b.loop(whole, stem="d") as group:
                d = b.let(index(group) * index(_GROUP))
                self._sums(dots, [load(d + index(n)) for n in range(_GROUP)], rows, d, sums)
        for number, row in enumerate(rows):
            ordered = _in_order(b, [s.get() for s in sums[number][0]], self.lanes)
            for n, value in enumerate(ordered):
                place = b.let(at + index(n * self.lanes))
                for d in range(work.size - rest, work.size):
                    key = self._plain(b.let(keys + index(d * work.places) + place), self.lanes)
                    value = b.let(value + key * splat(self.codes.load(index(row.codes + d)), self.lanes))
                self._finish(row, value, scales, place, self.lanes)

    def _flip(self, row: _Row) -> Expr:
        """Return what makes the dots with k + 128 those with k: −128 Σ q over whole groups."""
        b, register = self.b, self.b.register("int32", const(0, "int32"))
        with b.loop(self.work.size // _GROUP * _GROUP, stem="d") as d:
            register.set(register.get() - self.codes.load(index(row.codes) + index(d)) * const(128, "int32"))
        return b.let(register.get())

    def _by_elements(self, rows: Sequence[_Row], keys: Expr, scales: Expr, at: Expr, widths: Sequence[int]) -> None:
        b, work, lanes = self.b, self.work, widths[0]
        sums = self._totals(len(rows), widths)
        with b.loop(work.size, stem="d") as d:
            here = b.let(keys + index(d) * index(work.places) + at)
            self._add(rows, here, d, sums)
        for row, totals in zip(rows, sums, strict=True):
            for n, total in enumerate(totals):
                self._finish(row, total.get(), scales, b.let(at + index(n * lanes)), lanes)

    def _finish(self, row: _Row, value: Expr, scales: Expr, at: Expr, lanes: int) -> None:
        b = self.b
        scaled = b.let(cast(vector_type("float32", lanes), value) * self.scales.load(b.let(scales + at), lanes))
        self.y.store(b.let(row.y + at), scaled * splat(row.factor, lanes), lanes)


class _Mix(_Product):
    """Values weighted by shares, elements of a place innermost."""

    planes = 2
    rows_at_once = 2

    def _in_planes(self, code: Expr, lanes: int) -> Sequence[Expr]:
        kind = vector_type("int32", lanes)
        return [code >> const(_LOW, kind), code & const((1 << _LOW) - 1, kind)]

    def _together(self, head: Expr, first: Expr, count: int, total: Expr) -> None:
        b, work = self.b, self.work
        values, scales = b.let(head * index(work.size * work.places)), b.let(head * index(work.places))
        rows = []
        for number in range(count):
            source = b.let((first + index(number)) * index(work.places))

            def share(e: Index, n: int, s: Expr = source) -> Expr:
                return self.x.load(s + e, n) * self.scales.load(scales + e, n)

            factor = self._quantize(number, total, share, LARGEST_SHARE)
            y = b.let((first + index(number)) * index(work.size))
            planes = tuple(self._plane(number, plane) for plane in range(self.planes))
            rows.append(_Row(number * self.length, planes, y, factor))
        size = self.isa.vector_bytes
        whole = work.size // size * size if self.dots is not None else 0
        for start in range(0, whole, size):
            self._columns(rows, values, start, [self.lanes] * _GROUP, total)
        together = self.lanes * _GROUP
        for start in range(whole, work.size - together + 1, together):
            self._columns(rows, values, start, [self.lanes] * _GROUP, total, plain=True)
            whole = start + together
        for start, lanes in spans(whole, work.size, self.lanes):
            self._columns(rows, values, start, [lanes], total, plain=True)

    def _columns(
        self, rows: Sequence[_Row], values: Expr, start: int, widths: Sequence[int], total: Expr, plain: bool = False
    ) -> None:
        """Sum some columns of all places, block by block."""
        b, lanes = self.b, widths[0]
        kind = vector_type("float32", lanes)
        results = [[b.register(kind, const(0.0, kind)) for _ in widths] for _ in rows]
        with b.loop(b.let(quotient(total + index(SHARE_BLOCK - 1), SHARE_BLOCK)), stem="block") as block:
            begin = b.let(index(block) * index(SHARE_BLOCK))
            count = b.let(tirx.Min(total - begin, index(SHARE_BLOCK)))
            sums = self._totals(len(rows), widths)
            done = index(0)
            if self.dots is not None and not plain:
                done = self._by_dots(self.dots, rows, values, start, (begin, count), sums)
            with b.loop(b.let(count - done), b.let(begin + done), stem="t") as t:
                here = b.let(values + index(t) * index(self.work.size) + index(start))
                self._add(rows, here, t, sums)
            for totals, sofar in zip(sums, results, strict=True):
                for result, total_of in zip(sofar, totals, strict=True):
                    result.set(result.get() + cast(kind, total_of.get()))
        for row, sofar in zip(rows, results, strict=True):
            for n, result in enumerate(sofar):
                self.y.store(b.let(row.y + index(start + n * lanes)), result.get() * splat(row.factor, lanes), lanes)

    def _by_dots(
        self,
        dots: ByteDots,
        rows: Sequence[_Row],
        values: Expr,
        start: int,
        block: tuple[Expr, Expr],
        sums: Sequence[Sequence[Register]],
    ) -> Expr:
        """Sum whole groups of places of a block, and return how many places they are."""
        b, size, (begin, count) = self.b, self.isa.vector_bytes, block
        kind = f"int32x{self.lanes}"
        tile = self._tile(len(rows), lambda _: const(0, kind))
        groups = b.let(quotient(count, _GROUP))
        with b.loop(groups, stem="group") as group:
            t = b.let(begin + index(group) * index(_GROUP))
            here = b.let(values + t * index(self.work.size) + index(start))
            for n in range(_GROUP):
                self._prefetch(here + index((_ROWS_AHEAD + n) * self.work.size))
            vectors = [b.let(self.cache.load(here + index(n * self.work.size), size)) for n in range(_GROUP)]
            self._sums(dots, vectors, rows, t, tile)
        for number, planes in enumerate(tile):
            high, low = (_in_order(b, [s.get() for s in plane], self.lanes) for plane in planes)
            for total, upper, lower in zip(sums[number], high, low, strict=True):
                total.set((upper << const(_LOW, kind)) + lower)
        return b.let(groups * index(_GROUP))


def _in_parts(b: Builder, rows: Sequence[Expr]) -> list[Expr]:
    """Interleave four rows of bytes within their parts of 16: [part][byte][row], the bytes of a part cut in four."""
    size = int(str(rows[0].ty.dtype).partition("x")[2])
    pairs = [_zip(b, rows[n], rows[n + 2], 1, size) for n in (0, 1)]
    found = []
    for first, second in zip(*pairs, strict=True):
        found += _zip(b, first, second, 1, size)
    return found


def _zip(b: Builder, x: Expr, y: Expr, unit: int, size: int) -> list[Expr]:
    """Return the lower and the upper halves of all parts of two vectors, their elements in turn."""
    halves = []
    for half in (0, _PART // 2):
        order = [
            part + half + n + side for part in range(0, size, _PART) for n in range(_PART // 2) for side in (0, size)
        ]
        halves.append(b.let(shuffle([x, y], order)))
    return halves


def _in_order(b: Builder, vectors: Sequence[Expr], lanes: int) -> list[Expr]:
    """Bring sums of interleaved bytes into the order of the elements."""
    if lanes == _GROUP:
        return [b.let(vector) for vector in vectors]
    vectors = [b.let(vector) for vector in vectors]
    order = []
    for element in range(_GROUP * lanes):
        part, within = divmod(element, _PART)
        order.append(within // _GROUP * lanes + part * _GROUP + within % _GROUP)
    return [b.let(shuffle(vectors, order[n * lanes : (n + 1) * lanes])) for n in range(_GROUP)]
