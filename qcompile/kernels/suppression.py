"""Greedy suppression of boxes that overlap better ones."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, Memory, Register, cast, const, index
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

    The results of all classes follow one another, so there is one tile. Scratch holds the boxes still in the race, in
    order, and their scores.
    """
    name = symbol("suppression", work, isa.name)
    emit = _Suppression(work)
    b = emit.b
    with b.loop(b.end - b.begin, b.begin, stem="tile"):
        emit.all_classes()
    size = -(-work.boxes * 8 // 64) * 64
    return Kernel(name, b.function(name), 1, size)


class _Suppression:
    def __init__(self, work: SuppressionWorkload) -> None:
        self.work, self.b = work, Builder()
        kinds = ("float32", "float32", "int64")
        self.boxes, self.scores, self.result = (self.b.argument(n, kind) for n, kind in enumerate(kinds))
        self.left: Memory = self.b.scratch("float32")
        self.places: Memory = self.b.scratch("int32")

    def all_classes(self) -> None:
        b, work = self.b, self.work
        rows = work.batch * work.classes * work.most
        with b.loop(rows * 3, stem="fill") as at:
            self.result.store(index(at), const(-1, "int64"))
        found = b.register("int64", const(0, "int64"))
        with b.loop(work.batch, stem="n") as n, b.loop(work.classes, stem="c") as c:
            first = b.let((index(n) * index(work.classes) + index(c)) * index(work.boxes))
            count = b.register("int64", const(0, "int64"))
            with b.loop(work.boxes, stem="i") as i:
                score = b.let(self.scores.load(first + index(i)))
                self._keep(count, score, index(i), const(work.least, "float32") < score)
            with b.loop(work.most, stem="k"), b.when(const(0, "int64") < count.get()):
                self._take_best(index(n), index(c), count, found)

    def _keep(self, count: Register, score: Expr, box: Expr, wanted: Expr) -> None:
        """Append a box to those in the race, or let the next one be written over it."""
        self.left.store(count.get(), score)
        self.places.store(count.get() + index(self.work.boxes), cast("int32", box))
        count.set(count.get() + cast("int64", wanted))

    def _take_best(self, n: Expr, c: Expr, count: Register, found: Register) -> None:
        """Append the best box that is left, and drop it and those that overlap it."""
        b = self.b
        most, place = b.register("float32", const(float("-inf"), "float32")), b.register("int64", const(0, "int64"))
        with b.loop(count.get(), stem="i") as i:
            score = b.let(self.left.load(index(i)))
            with b.when(most.get() < score):
                most.set(score)
                place.set(index(i))
        best = b.let(self._place(place.get()))
        row = b.let(found.get() * index(3))
        for k, value in enumerate((n, c, best)):
            self.result.store(b.let(row + index(k)), cast("int64", value))
        found.set(found.get() + const(1, "int64"))
        own = self._corners(n, best)
        left = b.register("int64", const(0, "int64"))
        with b.loop(count.get(), stem="j") as j:
            box, score = b.let(self._place(index(j))), b.let(self.left.load(index(j)))
            goes = tirx.Or(tirx.EQ(box, best), self._overlaps(own, self._corners(n, box)))
            self._keep(left, score, box, tirx.Not(goes))
        count.set(left.get())

    def _place(self, at: Expr) -> Expr:
        return cast("int64", self.places.load(at + index(self.work.boxes)))

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

    def _overlaps(self, a: list[Expr], o: list[Expr]) -> Expr:
        b, zero = self.b, const(0.0, "float32")
        sides = [tirx.Max(tirx.Min(a[k + 1], o[k + 1]) - tirx.Max(a[k], o[k]), zero) for k in (0, 2)]
        shared = b.let(sides[0] * sides[1])
        areas = [b.let((x[1] - x[0]) * (x[3] - x[2])) for x in (a, o)]
        union = b.let(areas[0] + areas[1] - shared)
        positive = tirx.And(zero < areas[0], zero < areas[1])
        return tirx.And(positive, const(self.work.overlap, "float32") < shared / union)
