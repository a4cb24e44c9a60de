"""The place of each element in sorted order, by merging, and where the elements of the first places stand."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Memory, bitcast, cast, const, index, quotient, remainder
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol

RANKED = ("float32", "int8", "uint8", "int32", "int64")
"""Element types that are compared as they are stored."""

_INFINITE = 0x7F800000
"""The bits of infinity; those of what is not a number are larger, but for the sign."""


@dataclass(frozen=True)
class RankWorkload:
    """y[o, i, n] = the number of elements x[o, ·, n] that come before x[o, i, n]; of equal ones the first comes first.

    Args:
        outer: extents before the axis, multiplied.
        extent: of the axis.
        inner: extents behind it, multiplied.
        dtype: of x, one of RANKED.
        largest: whether the largest element comes first, else the smallest.
    """

    outer: int
    extent: int
    inner: int
    dtype: str
    largest: bool


@dataclass(frozen=True)
class PlaceWorkload:
    """y[o, k, n] = the least i with x[o, i, n] = k for k < count; the last index where there is none.

    Args:
        outer: extents before the axis, multiplied.
        extent: of the axis.
        inner: extents behind it, multiplied.
        count: places that are wanted.
    """

    outer: int
    extent: int
    inner: int
    count: int


def rank_kernel(work: RankWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 is x, p1 is y, int32. A tile is one row; scratch holds its indices, twice.

    Runs of sorted indices are merged, each twice as long as before. A row that holds what is not a number has no
    order: there every pair is compared, as the operation says.
    """
    name = symbol("rank", work, isa.name)
    emit = _Rank(work)
    b = emit.b
    with b.loop(b.end - b.begin, b.begin, stem="row") as row:
        emit.row(row)
    return Kernel(name, b.function(name), work.outer * work.inner, 2 * emit.half * 4)


def place_kernel(work: PlaceWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 are the ranks, int32, p1 is y, int64. A tile is one row."""
    name = symbol("place", work, isa.name)
    b = Builder()
    x, y = b.argument(0, "int32"), b.argument(1, "int64")
    with b.loop(b.end - b.begin, b.begin, stem="row") as row:
        n, o = remainder(row, work.inner), b.let(quotient(row, work.inner))
        source, target = (b.let(o * index(size * work.inner) + n) for size in (work.extent, work.count))
        with b.loop(work.count, stem="k") as k:
            y.store(target + index(k) * index(work.inner), const(work.extent - 1, "int64"))
        with b.loop(work.extent, stem="i") as i:
            # From the end: what is written last is the least.
            at = b.let(index(work.extent - 1) - index(i))
            place = b.let(cast("int64", x.load(source + at * index(work.inner))))
            with b.when(place < index(work.count)):
                y.store(target + place * index(work.inner), at)
    return Kernel(name, b.function(name), work.outer * work.inner, 0)


class _Rank:
    def __init__(self, work: RankWorkload) -> None:
        self.work, self.b = work, Builder()
        self.half = -(-work.extent // 16) * 16
        self.x, self.y = self.b.argument(0, work.dtype), self.b.argument(1, "int32")
        self.order: Memory = self.b.scratch("int32")

    def row(self, row: Expr) -> None:
        """Find the places of one row."""
        b, work = self.b, self.work
        outer = b.let(quotient(row, work.inner))
        self.first = b.let(outer * index(work.extent * work.inner) + remainder(row, work.inner))
        if work.dtype != "float32":
            self._merge_all()
            return
        strange = b.register("int32", const(0, "int32"))
        with b.loop(work.extent, stem="i") as i:
            bits = bitcast("int32", self._value(index(i))) & const(0x7FFFFFFF, "int32")
            strange.set(strange.get() | cast("int32", const(_INFINITE, "int32") < bits))
        with b.when(tirx.EQ(strange.get(), const(0, "int32"))):
            self._merge_all()
        with b.when(tirx.NE(strange.get(), const(0, "int32"))):
            self._compare_all()

    def _at(self, place: Expr) -> Expr:
        return self.first + place * index(self.work.inner)

    def _value(self, place: Expr) -> Expr:
        return self.x.load(self._at(place))

    def _before(self, a: Expr, o: Expr) -> Expr:
        return o < a if self.work.largest else a < o

    def _merge_all(self) -> None:
        b, work = self.b, self.work
        with b.loop(work.extent, stem="i") as i:
            self.order.store(index(i), cast("int32", index(i)))
        source, target, width = 0, self.half, 1
        while width < work.extent:
            with b.loop(-(-work.extent // (2 * width)), stem="run") as run:
                self._merge(b.let(index(run) * index(2 * width)), width, source, target)
            source, target, width = target, source, 2 * width
        with b.loop(work.extent, stem="k") as k:
            place = b.let(cast("int64", self.order.load(index(k) + index(source))))
            self.y.store(self._at(place), cast("int32", index(k)))

    def _merge(self, start: Expr, width: int, source: int, target: int) -> None:
        """Merge two neighbouring runs; the choice is arithmetic, since no processor foresees where it would branch."""
        b, most = self.b, index(self.work.extent)
        middle, end = (b.let(tirx.Min(start + index(n * width), most)) for n in (1, 2))
        left, right = b.register("int64", start), b.register("int64", middle)
        with b.loop(end - start, start, stem="k") as k:
            i, j = b.let(left.get()), b.let(right.get())
            # A run that is used up is read at its start, and not taken.
            places = [
                b.let(self.order.load(tirx.Select(at < stop, at, start) + index(source)))
                for at, stop in ((i, middle), (j, end))
            ]
            own, other = (b.let(self._value(cast("int64", place))) for place in places)
            done, later, rest = (cast("int64", test) for test in (middle <= i, self._before(other, own), j < end))
            step = b.let((done | later) & rest)
            chosen = places[0] ^ ((places[0] ^ places[1]) & (const(0, "int32") - cast("int32", step)))
            self.order.store(index(k) + index(target), chosen)
            left.set(i + index(1) - step)
            right.set(j + step)

    def _compare_all(self) -> None:
        b, work = self.b, self.work
        with b.loop(work.extent, stem="i") as i:
            own = b.let(self._value(index(i)))
            count = b.register("int32", const(0, "int32"))
            with b.loop(work.extent, stem="j") as j:
                other = b.let(self._value(index(j)))
                tied = tirx.And(tirx.EQ(own, other), index(j) < index(i))
                count.set(count.get() + cast("int32", tirx.Or(self._before(other, own), tied)))
            self.y.store(self._at(index(i)), count.get())
