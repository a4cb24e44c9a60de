"""Normalizations along one axis: softmax, log-softmax, layer normalization.

Where the axis is the innermost one, vectors run along it and are folded at the end; else they run across it, over
the elements that lie side by side, and nothing needs folding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels import math
from qcompile.kernels.builder import Builder, Expr, Index, Memory, call_pure, const, index, shuffle, splat, vector_type
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.space import Nest, Place, for_each_vector, plan_nest

Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class RowsWorkload:
    """One normalization of a float32 tensor.

    Args:
        kind: "softmax", "log_softmax" or "layer_norm".
        outer: elements before the axis.
        length: extent of the axis.
        inner: elements after the axis; 1 for layer_norm.
        epsilon: added to the variance (layer_norm).
        block: rows of a tile where inner is 1; 0 for as many as suit the size.
    """

    kind: str
    outer: int
    length: int
    inner: int = 1
    epsilon: float = 0.0
    block: int = 0


def rows_kernel(work: RowsWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 is the operand, p1 the result; p2 and p3 scale and bias of layer_norm."""
    name = symbol("rows", work, isa.name)
    emit = _Rows(work, isa)
    if work.inner > 1:
        lanes = emit.lanes
        while lanes > work.inner:
            lanes //= 2
        nest = plan_nest((work.outer, work.inner), 1, lanes, work.length)
        for_each_vector(emit.b, nest, emit.across)
        return Kernel(name, emit.b.function(name), nest.tiles, 0, nest.levels(work.length)[:1])
    nest = plan_nest((work.outer,), 0, 1, work.length)
    if 0 < work.block < work.outer:
        nest = Nest((work.outer,), 0, 1, 0, work.block)
    for_each_vector(emit.b, nest, lambda place, _: emit.along(index(place[0]) * index(work.length)))
    return Kernel(name, emit.b.function(name), nest.tiles, 0, nest.levels(work.length))


_LOWEST = -3.4028234663852886e38
"""The smallest float32 that is a number."""


class _Rows:
    """Emits the normalization of one row, or of a vector of neighbouring columns."""

    def __init__(self, work: RowsWorkload, isa: Isa) -> None:
        self.work, self.b = work, Builder()
        self.lanes = isa.row_lanes or isa.float32.lanes
        self.x, self.y = self.b.argument(0, "float32"), self.b.argument(1, "float32")
        self.scale, self.bias = self.b.argument(2, "float32"), self.b.argument(3, "float32")

    # -- across: one lane per row --------------------------------------------------------------------------

    def across(self, place: Place, lanes: int) -> None:
        """Emit a vector of rows whose elements lie `inner` apart."""
        b, work = self.b, self.work
        first = b.let(index(place[0]) * index(work.length * work.inner) + index(place[1]))
        most = self._column(first, lanes, float("-inf"), lambda x: x, lambda total, x: tirx.Max(x, total))
        logarithmic = work.kind == "log_softmax"

        def shifted(at: Expr) -> Expr:
            return math.let(b, self.x.load(at, lanes) - most)

        total = b.register(vector_type("float32", lanes), const(0.0, vector_type("float32", lanes)))
        with b.loop(work.length, stem="k") as k:
            at = b.let(first + index(k) * index(work.inner))
            power = b.let(math.vanishing_exp(b, shifted(at)))
            total.set(total.get() + power)
            if not logarithmic:
                self.y.store(at, power, lanes)
        factor = self._defined(self._factor(total.get(), lanes), most, lanes)
        with b.loop(work.length, stem="k") as k:
            at = b.let(first + index(k) * index(work.inner))
            value = shifted(at) - factor if logarithmic else self.y.load(at, lanes) * factor
            self.y.store(at, value, lanes)

    def _column(self, first: Expr, lanes: int, start: float, of: Callable[[Expr], Expr], combine: Combine) -> Expr:
        b = self.b
        total = b.register(vector_type("float32", lanes), const(start, vector_type("float32", lanes)))
        with b.loop(self.work.length, stem="k") as k:
            at = b.let(first + index(k) * index(self.work.inner))
            total.set(combine(total.get(), of(self.x.load(at, lanes))))
        return b.let(total.get())

    def _factor(self, total: Expr, lanes: int) -> Expr:
        """1 / total, or ln total for the logarithmic form."""
        if self.work.kind == "log_softmax":
            return self.b.let(math.log(self.b, math.let(self.b, total)))
        return self.b.let(const(1.0, vector_type("float32", lanes)) / total)

    def _defined(self, factor: Expr, most: Expr, lanes: int) -> Expr:
        """Return the factor, NaN where all elements are −∞: models ask for it (IsNaN) where a mask hides everything."""
        wide = vector_type("float32", lanes)
        finite = most >= const(_LOWEST, wide)
        return self.b.let(tirx.Select(finite, factor, const(float("nan"), wide)))

    # -- along: one row, lanes along it ---------------------------------------------------------------------

    def along(self, first: Expr) -> None:
        """Emit one row whose elements are contiguous."""
        first = self.b.let(first)
        if self.work.kind == "layer_norm":
            self._layer_norm(first)
        else:
            self._softmax(first)

    def _softmax(self, first: Expr) -> None:
        b, logarithmic = self.b, self.work.kind == "log_softmax"
        most = self._row(self.x, first, float("-inf"), lambda x, _: x, lambda total, x: tirx.Max(x, total))

        def power(x: Expr, at: Expr) -> Expr:
            lanes = _lanes(x)
            value = b.let(math.vanishing_exp(b, math.let(b, x - splat(most, lanes))))
            if not logarithmic:
                self.y.store(at, value, lanes)
            return value

        total = self._row(self.x, first, 0.0, power, lambda total, x: total + x)
        factor = self._defined(self._factor(total, 1), most, 1)

        def finish(at: Index, lanes: int) -> None:
            here = b.let(first + at)
            if logarithmic:
                self.y.store(here, self.x.load(here, lanes) - splat(most, lanes) - splat(factor, lanes), lanes)
            else:
                self.y.store(here, self.y.load(here, lanes) * splat(factor, lanes), lanes)

        self._each(finish)

    def _layer_norm(self, first: Expr) -> None:
        b, work = self.b, self.work
        inverse = const(1.0 / work.length, "float32")
        mean = b.let(self._row(self.x, first, 0.0, lambda x, _: x, lambda total, x: total + x) * inverse)

        def square(x: Expr, at: Expr) -> Expr:
            distance = b.let(x - splat(mean, _lanes(x)))
            return distance * distance

        variance = self._row(self.x, first, 0.0, square, lambda total, x: total + x) * inverse
        spread = call_pure("float32", "llvm.sqrt", variance + const(work.epsilon, "float32"))
        factor = b.let(const(1.0, "float32") / spread)

        def finish(at: Index, lanes: int) -> None:
            here = b.let(first + at)
            centred = (self.x.load(here, lanes) - splat(mean, lanes)) * splat(factor, lanes)
            self.y.store(here, centred * self.scale.load(at, lanes) + self.bias.load(at, lanes), lanes)

        self._each(finish)

    def _each(self, body: Callable[[Index, int], None]) -> None:
        """Call the body for every vector of a row, then for ever smaller parts of the rest."""
        length, lanes = self.work.length, self.lanes
        if length >= lanes:
            with self.b.loop(length // lanes, stem="v") as v:
                body(self.b.let(index(v) * index(lanes)), lanes)
        for start, size in _rest(length, lanes):
            body(index(start), size)

    def _row(
        self, memory: Memory, first: Expr, start: float, of: Callable[[Expr, Expr], Expr], combine: Combine
    ) -> Expr:
        """Fold a row to one number."""
        b, length, lanes = self.b, self.work.length, self.lanes
        wide = vector_type("float32", lanes)
        total = b.register(wide, const(start, wide))
        if length >= lanes:
            with b.loop(length // lanes, stem="v") as v:
                at = b.let(first + index(v) * index(lanes))
                total.set(combine(total.get(), of(b.let(memory.load(at, lanes)), at)))
        result = self._fold(b.let(total.get()), combine)
        for offset, size in _rest(length, lanes):
            at = b.let(first + index(offset))
            part = self._fold(b.let(of(b.let(memory.load(at, size)), at)), combine)
            result = b.let(combine(result, part))
        return result

    def _fold(self, total: Expr, combine: Combine) -> Expr:
        lanes = _lanes(total)
        while lanes > 1:
            lanes //= 2
            total = self.b.let(combine(*(shuffle([total], range(n, n + lanes)) for n in (0, lanes))))
        return total


def _rest(length: int, lanes: int) -> Sequence[tuple[int, int]]:
    """Return (start, size) of the parts after the last whole vector, powers of two."""
    done, size, parts = length // lanes * lanes, lanes, []
    while done < length:
        size //= 2
        if done + size <= length:
            parts.append((done, size))
            done += size
    return parts


def _lanes(x: Expr) -> int:
    return int(math.dtype_of(x).partition("x")[2] or 1)
