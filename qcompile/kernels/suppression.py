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

    The results of all classes follow one another, so there is one tile. Scratch holds the scores still in the race.
    """
    name = symbol("suppression", work, isa.name)
    emit = _Suppression(work)
    b = emit.b
    with b.loop(b.end - b.begin, b.begin, stem="tile"):
        emit.all_classes()
    size = -(-work.boxes * 4 // 64) * 64
    return Kernel(name, b.function(name), 1, size)


class _Suppression:
    def __init__(self, work: SuppressionWorkload) -> None:
        self.work, self.b = work, Builder()
        kinds = ("float32", "float32", "int64")
        self.boxes, self.scores, self.result = (self.b.argument(n, kind) for n, kind in enumerate(kinds))
        self.left: Memory = self.b.scratch("float32")

    def all_classes(self) -> None:
        b, work = self.b, self.work
        rows = work.batch * work.classes * work.most
        with b.loop(rows * 3, stem="fill") as at:
            self.result.store(index(at), const(-1, "int64"))
        found = b.register("int64", const(0, "int64"))
        with b.loop(work.batch, stem="n") as n, b.loop(work.classes, stem="c") as c:
            first = b.let((index(n) * index(work.classes) + index(c)) * index(work.boxes))
            with b.loop(work.boxes, stem="i") as i:
                score = b.let(self.scores.load(first + index(i)))
                out = const(float("-inf"), "float32")
                self.left.store(index(i), tirx.Select(const(work.least, "float32") < score, score, out))
            with b.loop(work.most, stem="k"):
                self._take_best(index(n), index(c), found)

    def _take_best(self, n: Expr, c: Expr, found: Register) -> None:
        """Append the best box that is left, and drop those that overlap it."""
        b, work = self.b, self.work
        none = const(float("-inf"), "float32")
        most, place = b.register("float32", none), b.register("int64", const(-1, "int64"))
        with b.loop(work.boxes, stem="i") as i:
            score = b.let(self.left.load(index(i)))
            with b.when(most.get() < score):
                most.set(score)
                place.set(index(i))
        with b.when(tirx.LE(const(0, "int64"), place.get())):
            best = b.let(place.get())
            row = b.let(found.get() * index(3))
            for k, value in enumerate((n, c, best)):
                self.result.store(b.let(row + index(k)), cast("int64", value))
            found.set(found.get() + const(1, "int64"))
            own = self._corners(n, best)
            with b.loop(work.boxes, stem="j") as j:
                goes = self._overlaps(own, self._corners(n, index(j)))
                with b.when(goes):
                    self.left.store(index(j), none)
            self.left.store(best, none)

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
