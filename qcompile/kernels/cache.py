"""Attention over a cache that holds as many places as a run-time length says.

Nothing past that length is read but for the rest of a vector of scores, whose results are of no meaning. One item of
work is a head: its new places are counted at run time, too, and taken four at a time where there are four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels import halves
from qcompile.kernels.builder import (
    Builder,
    Expr,
    Index,
    Register,
    call_pure,
    cast,
    const,
    index,
    quotient,
    splat,
    vector_type,
)
from qcompile.kernels.cache_integer import integer_cache_kernel
from qcompile.kernels.cache_workload import CacheWorkload, spans
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.math import ROUND
from qcompile.quant.cache_codes import LARGEST_CODE, LEAST_PEAK

_ROWS = 4
_VECTORS = 4
_STORED = {"float32": "float32", "float16": "uint16", "int8": "int8"}


def cache_kernel(work: CacheWorkload, isa: Isa) -> Kernel:
    """Generate the kernel.

    p0 are the new rows, p1 the cache, p2 its filled places, p4 the scales of an int8 cache, p5 the result; p3 and p6,
    the places of the sequence before the run and after it, say how many rows are new.
    """
    return integer_cache_kernel(work, isa) if work.integer else _Attention(work, isa).kernel()


class _Attention:
    """Emits one product."""

    def __init__(self, work: CacheWorkload, isa: Isa) -> None:
        self.work, self.b = work, Builder()
        self.lanes, self.fused = isa.float32.lanes, isa.fused
        b = self.b
        self.x, self.cache = b.argument(0, "float32"), b.argument(1, _STORED[work.dtype])
        self.total, self.before, self.after = (b.argument(number, "int64") for number in (2, 3, 6))
        self.scales, self.y = b.argument(4, "float32"), b.argument(5, "float32")

    def kernel(self) -> Kernel:
        """Emit everything."""
        b, work = self.b, self.work
        with b.loop(b.end - b.begin, b.begin, stem="head") as head:
            kept = b.let(quotient(head, work.shared)) if work.shared > 1 else head
            total = b.let(self.total.load(index(0)))
            new = b.let(self.after.load(index(0)) - self.before.load(index(0)))
            count = b.let(tirx.Min(new, index(work.new)))
            self._in_blocks(index(head), index(kept), total, count)
        name = symbol("cache", work, self.lanes, self.fused)
        return Kernel(name, b.function(name), work.heads, 0)

    def _in_blocks(self, head: Expr, kept: Expr, total: Expr, count: Expr) -> None:
        """Emit blocks of new rows, then single ones."""
        b, work = self.b, self.work
        emit = self._scores if work.kind == "scores" else self._mix
        first = index(0)
        if work.new >= _ROWS:
            whole = b.let(quotient(count, _ROWS))
            with b.loop(whole, stem="block") as block:
                emit(head, kept, b.let(index(block) * index(_ROWS)), _ROWS, total)
            first = b.let(whole * index(_ROWS))
        with b.loop(b.let(count - first), first, stem="row") as row:
            emit(head, kept, index(row), 1, total)

    # -- scores: places innermost ----------------------------------------------------------------------------

    def _scores(self, head: Expr, kept: Expr, row: Expr, rows: int, total: Expr) -> None:
        b, work, lanes = self.b, self.work, self.lanes
        x = b.let((head * index(work.new) + row) * index(work.size))
        y = b.let((head * index(work.new) + row) * index(work.places))
        keys, scales = b.let(kept * index(work.size * work.places)), b.let(kept * index(work.places))
        tile = lanes * (_VECTORS if rows == 1 else 2)
        while tile > max(lanes, work.places):
            tile //= 2
        blocks = work.places // tile
        if blocks:
            needed = b.let(tirx.Min(quotient(total + index(tile - 1), tile), index(blocks)))
            with b.loop(needed, stem="t") as t:
                at = b.let(index(t) * index(tile))
                self._score_tile(x, y, keys, scales, at, [lanes] * (tile // lanes), rows)
        for start, width in spans(blocks * tile, work.places, lanes):
            self._score_tile(x, y, keys, scales, index(start), [width], rows)

    def _score_tile(
        self, x: Expr, y: Expr, keys: Expr, scales: Expr, at: Expr, widths: Sequence[int], rows: int
    ) -> None:
        b, work = self.b, self.work
        sums = self._registers(widths, rows)
        starts = [sum(widths[:n]) for n in range(len(widths))]
        with b.loop(work.size, stem="d") as d:
            here = b.let(keys + index(d) * index(work.places) + at)
            vectors = [self._load(here + index(s), w) for s, w in zip(starts, widths, strict=True)]
            for r in range(rows):
                value = b.let(self.x.load(x + index(r * work.size) + index(d)))
                self._add(sums[r], value, vectors, widths)
        for s, w in zip(starts, widths, strict=True):
            where = b.let(at + index(s))
            scale = b.let(self.scales.load(scales + where, w)) if work.dtype == "int8" else None
            for r in range(rows):
                value = sums[r][starts.index(s)].get()
                self.y.store(y + index(r * work.places) + where, value if scale is None else value * scale, w)

    # -- mix: elements of a place innermost ------------------------------------------------------------------

    def _mix(self, head: Expr, kept: Expr, row: Expr, rows: int, total: Expr) -> None:
        b, work = self.b, self.work
        weights = b.let((head * index(work.new) + row) * index(work.places))
        y = b.let((head * index(work.new) + row) * index(work.size))
        values, scales = b.let(kept * index(work.size * work.places)), b.let(kept * index(work.places))
        widths = [width for _, width in spans(0, work.size, self.lanes)]
        for first in range(0, len(widths), _VECTORS):
            part = widths[first : first + _VECTORS]
            start = sum(widths[:first])
            starts = [start + sum(part[:n]) for n in range(len(part))]
            sums = self._registers(part, rows)
            with b.loop(total, stem="t") as t:
                here = b.let(values + index(t) * index(work.size))
                vectors = [self._load(here + index(s), w) for s, w in zip(starts, part, strict=True)]
                scale = b.let(self.scales.load(scales + index(t))) if work.dtype == "int8" else None
                for r in range(rows):
                    weight = self._weight(weights, r, t)
                    self._add(sums[r], weight if scale is None else b.let(weight * scale), vectors, part)
            for r in range(rows):
                for register, s, w in zip(sums[r], starts, part, strict=True):
                    self.y.store(y + index(r * work.size + s), register.get(), w)

    def _weight(self, first: Expr, row: int, place: Index) -> Expr:
        """Load the weight of a place."""
        return self.b.let(self.x.load(first + index(row * self.work.places) + index(place)))

    # -- both ------------------------------------------------------------------------------------------------

    def _registers(self, widths: Sequence[int], rows: int) -> list[list[Register]]:
        kinds = [vector_type("float32", width) for width in widths]
        return [[self.b.register(kind, const(0.0, kind)) for kind in kinds] for _ in range(rows)]

    def _add(self, sums: Sequence[Register], value: Expr, vectors: Sequence[Expr], widths: Sequence[int]) -> None:
        for total, vector, width in zip(sums, vectors, widths, strict=True):
            one = splat(value, width)
            if self.fused:
                total.set(call_pure(total.dtype, "llvm.fma", one, vector, total.get()))
            else:
                total.set(total.get() + one * vector)

    def _load(self, at: Expr, lanes: int) -> Expr:
        """Load elements of the cache as float32."""
        loaded = self.b.let(self.cache.load(at, lanes))
        if self.work.dtype == "float16":
            return self.b.let(halves.from_float16(self.b, loaded, native=self.fused))
        if self.work.dtype == "int8":
            return self.b.let(cast(vector_type("float32", lanes), cast(vector_type("int32", lanes), loaded)))
        return loaded


@dataclass(frozen=True)
class AppendWorkload:
    """New rows written behind the filled places of a cache.

    Args:
        heads: of the cache.
        new: most new rows of a head.
        places: of the cache.
        size: elements of a place.
        dtype: what the cache holds.
        transposed: whether places are innermost.
        once: whether they are the first rows, written where there are no places before the run.
    """

    heads: int
    new: int
    places: int
    size: int
    dtype: str
    transposed: bool
    once: bool = False


def append_kernel(work: AppendWorkload, isa: Isa) -> Kernel:
    """Generate the kernel.

    p0 are the new rows, p1 the cache, p2 its filled places after the run, p3 those of the sequence before it, p4 the
    scales of an int8 cache. An item of work is a head.
    """
    b = Builder()
    x, cache = b.argument(0, "float32"), b.argument(1, _STORED[work.dtype])
    after, before, scales = b.argument(2, "int64"), b.argument(3, "int64"), b.argument(4, "float32")
    with b.loop(b.end - b.begin, b.begin, stem="head") as head:
        start = b.let(before.load(index(0)))
        count = b.let(tirx.Min(after.load(index(0)) - start, index(work.new)))
        if work.once:
            first = tirx.EQ(start, const(0, "int64"))
            start, count = index(0), b.let(tirx.Select(first, count, index(0)))
        with b.loop(count, stem="row") as row:
            source = b.let((index(head) * index(work.new) + index(row)) * index(work.size))
            place = b.let(start + index(row))
            store = _storing(b, work, isa, x, scales, source, index(head) * index(work.places) + place)
            base = b.let(index(head) * index(work.places * work.size))
            with b.loop(work.size, stem="d") as d:
                if work.transposed:
                    at = base + index(d) * index(work.places) + place
                else:
                    at = base + place * index(work.size) + index(d)
                cache.store(b.let(at), store(b.let(x.load(source + index(d)))))
    name = symbol("append", work, isa.name)
    return Kernel(name, b.function(name), work.heads, 0)


def _storing(
    b: Builder, work: AppendWorkload, isa: Isa, x: Expr, scales: Expr, source: Expr, place: Expr
) -> Callable[[Expr], Expr]:
    """Return what turns an element of a row into what the cache holds; emits the scale of an int8 row."""
    if work.dtype == "float32":
        return lambda value: value
    if work.dtype == "float16":
        return lambda value: halves.to_float16(b, value)
    peak = b.register("float32", const(0.0, "float32"))
    with b.loop(work.size, stem="d") as d:
        value = b.let(x.load(source + index(d)))
        peak.set(tirx.Max(tirx.Max(value, const(0.0, "float32") - value), peak.get()))
    largest = b.let(peak.get())
    inverse = b.settled(const(float(LARGEST_CODE), "float32") / tirx.Max(largest, const(LEAST_PEAK, "float32")))
    scales.store(b.let(place), largest * const(1.0 / LARGEST_CODE, "float32"))
    low, high = (const(float(end), "float32") for end in (-LARGEST_CODE, LARGEST_CODE))

    def store(value: Expr) -> Expr:
        clamped = b.let(tirx.Min(tirx.Max(b.let(value * inverse), low), high))
        rounded = b.let(clamped + const(ROUND, "float32"))
        return cast("int8", tirx.reinterpret("int32", rounded))

    return store
