"""Greedy suppression of boxes that overlap better ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Register, call_pure, cast, const, index, quotient, remainder, splat
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol


@dataclass(frozen=True)
class SuppressionWorkload:
    """Which boxes of each class stay.

    Args:
        batch: images.
        classes: scores per box.
        boxes: per image.
        most: boxes of a class that stay at most.
        overlap: intersection over union beyond which a box goes.
        least: score that a box must exceed; −inf for none.
        centred: whether boxes are given as centre and size, else as two corners.
    """

    batch: int
    classes: int
    boxes: int
    most: int
    overlap: float
    least: float
    centred: bool


def suppression_kernel(work: SuppressionWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 are boxes, p1 scores, p2 the result, filled up with −1.

    The results of all classes follow one another, so there is one tile. The boxes of a class wait in a heap, the best
    on top. Each that is taken out is compared with those that stay already, a vector of them at a time.
    """
    name = symbol("suppression", work, isa.name)
    emit = _Suppression(work, isa.vector_bytes // 4)
    b = emit.b
    with b.loop(b.end - b.begin, b.begin, stem="tile"):
        emit.all_classes()
    return Kernel(name, b.function(name), 1, emit.end * 4)


class _Waiting(NamedTuple):
    """A box that waits, by its score and its place among all."""

    score: Expr
    place: Expr

    def before(self, other: _Waiting) -> Expr:
        """Return whether this one comes first; of equal scores the first place does."""
        tied = tirx.And(tirx.EQ(self.score, other.score), self.place < other.place)
        return tirx.Or(other.score < self.score, tied)


class _Suppression:
    def __init__(self, work: SuppressionWorkload, lanes: int) -> None:
        self.work, self.lanes, self.b = work, lanes, Builder()
        kinds = ("float32", "float32", "int64")
        self.boxes, self.scores, self.result = (self.b.argument(n, kind) for n, kind in enumerate(kinds))
        # Scratch: the heap's scores and places, then the bounds of the boxes that stay, each kind by itself.
        self.left, self.places = self.b.scratch("float32"), self.b.scratch("int32")
        self.stride = -(-work.most // 16) * 16
        self.bounds = [2 * work.boxes + k * self.stride for k in range(4)]
        self.end = self.bounds[-1] + self.stride

    def all_classes(self) -> None:
        b, work = self.b, self.work
        rows = work.batch * work.classes * work.most
        with b.loop(rows * 3, stem="fill") as at:
            self.result.store(index(at), const(-1, "int64"))
        found = b.register("int64", const(0, "int64"))
        with b.loop(work.batch, stem="n") as n, b.loop(work.classes, stem="c") as c:
            self._one_class(index(n), index(c), found)

    def _one_class(self, n: Expr, c: Expr, found: Register) -> None:
        b, work = self.b, self.work
        first = b.let((n * index(work.classes) + c) * index(work.boxes))
        count, stay = (b.register("int64", const(0, "int64")) for _ in range(2))
        with b.loop(work.boxes, stem="i") as i:
            # A box that is not wanted is written, too, and the next one over it.
            score = b.let(self.scores.load(first + index(i)))
            self._put(count.get(), _Waiting(score, cast("int32", index(i))))
            count.set(count.get() + cast("int64", const(work.least, "float32") < score))
        half = b.let(quotient(count.get(), 2))
        with b.loop(half, stem="i") as i:
            at = b.let(half - const(1, "int64") - index(i))
            self._sink(at, self._taken(at), count.get())
        with b.repeat(tirx.And(const(0, "int64") < count.get(), stay.get() < index(work.most))):
            self._take_best(n, c, count, stay, found)

    def _taken(self, at: Expr) -> _Waiting:
        return _Waiting(self.b.let(self.left.load(at)), self.b.let(self.places.load(at + index(self.work.boxes))))

    def _put(self, at: Expr, box: _Waiting) -> None:
        self.left.store(at, box.score)
        self.places.store(at + index(self.work.boxes), box.place)

    def _sink(self, start: Expr, box: _Waiting, count: Expr) -> None:
        """Put a box into the heap, at a place or, as long as what is beneath comes before it, further down."""
        b = self.b
        at, child = b.register("int64", start), b.register("int64", start * index(2) + index(1))
        with b.repeat(child.get() < count):
            left = b.let(child.get())
            right = b.let(tirx.Min(left + index(1), count - index(1)))
            pair = self._taken(left), self._taken(right)
            second = b.let(pair[1].before(pair[0]))
            lower = _Waiting(*(b.let(tirx.Select(second, o, a)) for a, o in zip(*pair, strict=True)))
            rises = b.let(lower.before(box))
            with b.when(rises):
                place = b.let(tirx.Select(second, right, left))
                self._put(at.get(), lower)
                at.set(place)
                child.set(place * index(2) + index(1))
            with b.when(tirx.Not(rises)):
                child.set(count)
        self._put(at.get(), box)

    def _take_best(self, n: Expr, c: Expr, count: Register, stay: Register, found: Register) -> None:
        """Take the best box out of the heap, and append it to those that stay unless it overlaps one of them."""
        b = self.b
        best = b.let(cast("int64", self._taken(index(0)).place))
        count.set(count.get() - index(1))
        rest = b.let(count.get())
        self._sink(index(0), self._taken(rest), rest)
        own = self._corners(n, best)
        goes, k = b.register("int32", const(0, "int32")), b.register("int64", index(0))
        with b.repeat(tirx.And(tirx.EQ(goes.get(), const(0, "int32")), k.get() < stay.get())):
            self._compare(own, b.let(k.get()), goes)
            k.set(k.get() + index(self.lanes))
        with b.when(tirx.EQ(goes.get(), const(0, "int32"))):
            self._append(own, b.let(stay.get()))
            stay.set(stay.get() + index(1))
            row = b.let(found.get() * index(3))
            for column, value in enumerate((n, c, best)):
                self.result.store(row + index(column), value)
            found.set(found.get() + index(1))

    def _append(self, own: list[Expr], at: Expr) -> None:
        """Keep the bounds of a box that stays; a vector that it begins is empty but for it."""
        b = self.b
        with b.when(tirx.EQ(remainder(at, self.lanes), index(0))):
            for start in self.bounds:
                self.left.store(at + index(start), const(0.0, f"float32x{self.lanes}"), self.lanes)
        for start, bound in zip(self.bounds, own, strict=True):
            self.left.store(at + index(start), bound)

    def _corners(self, n: Expr, box: Expr) -> list[Expr]:
        """Return the lower and upper bounds of a box along both axes."""
        b = self.b
        start = b.let((n * index(self.work.boxes) + box) * index(4))
        first, second, third, fourth = (b.let(self.boxes.load(start + index(k))) for k in range(4))
        if self.work.centred:
            half = const(0.5, "float32")
            pairs = [(first - third * half, first + third * half), (second - fourth * half, second + fourth * half)]
        else:
            pairs = [(first, third), (second, fourth)]
        return [b.let(f(low, high)) for low, high in pairs for f in (tirx.Min, tirx.Max)]

    def _compare(self, own: list[Expr], at: Expr, goes: Register) -> None:
        """Tell whether a box overlaps one of some neighbouring ones that stay; few ever meet, so few are divided."""
        b, zero = self.b, const(0.0, f"float32x{self.lanes}")
        a = [splat(bound, self.lanes) for bound in own]
        o = [b.let(self.left.load(at + index(start), self.lanes)) for start in self.bounds]
        sides = [tirx.Max(tirx.Min(a[k + 1], o[k + 1]) - tirx.Max(a[k], o[k]), zero) for k in (0, 2)]
        shared = b.let(sides[0] * sides[1])
        with b.when(tirx.NE(self._any(zero < shared), const(0, "int32"))):
            areas = [b.let((x[1] - x[0]) * (x[3] - x[2])) for x in (a, o)]
            union = areas[0] + areas[1] - shared
            positive = tirx.And(zero < areas[0], zero < areas[1])
            beyond = const(self.work.overlap, f"float32x{self.lanes}") < shared / union
            goes.set(self._any(tirx.And(positive, beyond)))

    def _any(self, flags: Expr) -> Expr:
        """Return a number that is not 0 where one of the flags is set."""
        ones, none = (const(value, f"int32x{self.lanes}") for value in (1, 0))
        return call_pure("int32", f"llvm.vector.reduce.or.v{self.lanes}i32", tirx.Select(flags, ones, none))
