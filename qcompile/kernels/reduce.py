"""Reductions and pools: every output element gathers the elements under its window, or of whole axes.

The vectors run along the output's innermost axis (channels), several side by side to hide latency; where the
operand is contiguous along a reduced axis instead, they run along that one and are folded at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, Index, Memory, Register, const, index, shuffle, vector_type
from qcompile.kernels.elementwise import map_lanes, store, widest_lanes
from qcompile.kernels.emit import Emitter, memory_dtype
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.space import Nest, Place, Space, for_each_vector, plan_nest

COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "sum": lambda x, y: x + y,
    "max": lambda x, y: tirx.Max(y, x),
    "min": lambda x, y: tirx.Min(y, x),
    "prod": lambda x, y: x * y,
}
"""How two partial results become one."""

_SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class ReduceWorkload:
    """One reduction.

    Args:
        extents: of the output axes.
        reduced: of the reduced axes, whose indices follow those of the output.
        buffers: element type of each buffer; the last one is the output.
        body: the element to gather.
        combine: a key of COMBINE.
        init: constant that the accumulator starts from.
        finish: the element to store, in the output's indices and the leaf "accumulator".
        store: offset in the output, elements.
    """

    extents: tuple[int, ...]
    reduced: tuple[int, ...]
    buffers: tuple[str, ...]
    body: ex.Expr
    combine: str
    init: ex.Expr
    finish: ex.Expr
    store: ex.Expr

    def space(self) -> Space:
        """Return the simplified iteration space; its roots are body and finish."""
        extents = (*self.extents, *self.reduced)
        return Space(extents, len(self.extents), (self.body, self.finish), self.store).simplified()


def accumulator(dtype: str) -> ex.Expr:
    """Return the leaf that stands for the finished accumulator."""
    return ex.make("accumulator", dtype)


def reduce_kernel(work: ReduceWorkload, isa: Isa) -> Kernel:
    """Generate the kernel of a reduction; arguments are the buffers in their order."""
    space = work.space()
    name = symbol("reduce", space.text(), work.combine, ex.text((work.init,)), work.buffers, isa.name)
    emit = _Reduction(work, space, isa)
    nest = emit.along_reduced() if emit.prefers_reduced_axis() else emit.along_output()
    return Kernel(name, emit.b.function(name), nest.tiles, 0, nest.levels())


class _Reduction:
    """Emits one reduction in either direction."""

    def __init__(self, work: ReduceWorkload, space: Space, isa: Isa) -> None:
        self.work, self.isa, self.b = work, isa, Builder()
        if space.outer == 0:  # a single output element still needs an axis
            space = _with_unit_axis(space)
        self.space = space
        self.body, self.finish = space.roots
        self.memories = {n: self.b.argument(n, memory_dtype(t)) for n, t in enumerate(work.buffers)}
        self.combine = COMBINE[work.combine]
        self.lanes = widest_lanes(isa, (*space.roots, work.init))

    @property
    def target(self) -> Memory:
        return self.memories[len(self.memories) - 1]

    @property
    def window(self) -> int:
        """Elements that one output element gathers."""
        return math.prod(self.space.extents[self.space.outer :])

    def prefers_reduced_axis(self) -> bool:
        """Whether loads are contiguous along the last reduced axis and not along the output's."""
        outer, last = self.space.outer, len(self.space.extents) - 1
        if last < outer:
            return False
        forms = [ex.affine(n.args[0]) for n in ex.walk((self.body,)) if n.op in ("load", "load_or")]
        if any(form.coefficient(outer - 1) == 1 for form in forms):
            return self.space.extents[outer - 1] * 4 < min(self.lanes, self.space.extents[last])
        return any(form.coefficient(last) == 1 for form in forms)

    # -- vectors along the output --------------------------------------------------------------------------

    def along_output(self) -> Nest:
        """Emit with vectors of output elements; returns how they are cut."""
        outer = self.space.outer
        roots = (*self.space.roots, self.work.init)
        self.lanes = map_lanes(self.isa, roots, outer - 1)
        wide = max(self.lanes, widest_lanes(self.isa, roots) * _SIDE_BY_SIDE)
        while wide > 1 and wide > self.space.extents[outer - 1]:
            wide //= 2
        nest = plan_nest(self.space.extents[:outer], outer - 1, wide, self.window)
        for_each_vector(self.b, nest, self._output_block)
        return nest

    def _output_block(self, place: Place, width: int) -> None:
        b, axis = self.b, self.space.outer - 1
        lanes = min(self.lanes, width)
        starts = [{**place, axis: index(place[axis]) + index(n)} for n in range(0, width, lanes)]
        sums = [self._register(lanes) for _ in starts]
        with self._over(range(self.space.outer, len(self.space.extents)), {}) as inner:
            for start, total in zip(starts, sums, strict=True):
                value = Emitter(b, self.isa, self.memories, {**start, **inner}, axis, lanes).value(self.body)
                total.set(self.combine(total.get(), value))
        for start, total in zip(starts, sums, strict=True):
            self._store(start, axis, lanes, b.let(total.get()))

    def _register(self, lanes: int) -> Register:
        dtype = vector_type(self.work.init.dtype, lanes)
        return self.b.register(dtype, const(self.work.init.data[0], dtype))

    def _store(self, place: Place, axis: int | None, lanes: int, total: Expr) -> None:
        emitter = Emitter(self.b, self.isa, self.memories, place, axis, lanes, total)
        store(emitter, self.target, self.space.store, emitter.value(self.finish), self.finish.dtype)

    @contextmanager
    def _over(self, axes: Sequence[int], place: Place) -> Iterator[Place]:
        if not axes:
            yield place
            return
        with self.b.loop(self.space.extents[axes[0]], stem="r") as r:
            place[axes[0]] = index(r)
            with self._over(axes[1:], place):
                yield place

    # -- vectors along the last reduced axis -----------------------------------------------------------------

    def along_reduced(self) -> Nest:
        """Emit with vectors of reduced elements; returns how they are cut."""
        outer = self.space.outer
        nest = plan_nest(self.space.extents[:outer], outer - 1, 1, self.window)
        for_each_vector(self.b, nest, lambda place, _: self._output_element(place))
        return nest

    def _output_element(self, place: Place) -> None:
        b, last = self.b, len(self.space.extents) - 1
        extent, lanes = self.space.extents[last], self.lanes
        while lanes > 1 and lanes > extent:
            lanes //= 2
        side = max(1, min(_SIDE_BY_SIDE, extent // lanes))
        wide = lanes * side
        sums = [self._register(lanes) for _ in range(side)]
        with self._over(range(self.space.outer, last), dict(place)) as here:
            with b.loop(extent // wide, stem="v") as v:
                for n, total in enumerate(sums):
                    self._add(here, index(v) * index(wide) + index(n * lanes), lanes, total)
            done = extent // wide * wide
            while done + lanes <= extent:
                self._add(here, done, lanes, sums[0])
                done += lanes
            if done < extent:
                with b.loop(extent - done, done, stem="e") as e:
                    self._add_one(here, e, lanes, sums[0])
        total = sums[0].get()
        for other in sums[1:]:
            total = b.let(self.combine(total, other.get()))
        self._store(place, None, 1, self._fold(b.let(total), lanes))

    def _add(self, place: Place, at: Index, lanes: int, total: Register) -> None:
        last = len(self.space.extents) - 1
        emitter = Emitter(self.b, self.isa, self.memories, {**place, last: self.b.let(index(at))}, last, lanes)
        total.set(self.combine(total.get(), emitter.value(self.body)))

    def _add_one(self, place: Place, at: Index, lanes: int, total: Register) -> None:
        """Combine one element into lane 0; the other lanes combine with the neutral start value."""
        last = len(self.space.extents) - 1
        emitter = Emitter(self.b, self.isa, self.memories, {**place, last: index(at)}, None, 1)
        value = emitter.value(self.body)
        if lanes > 1:
            neutral = const(self.work.init.data[0], self.work.init.dtype)
            value = shuffle([value] + [neutral] * (lanes - 1), range(lanes))
        total.set(self.combine(total.get(), value))

    def _fold(self, total: Expr, lanes: int) -> Expr:
        while lanes > 1:
            lanes //= 2
            halves = [shuffle([total], range(first, first + lanes)) for first in (0, lanes)]
            total = self.b.let(self.combine(*halves))
        return total


def _with_unit_axis(space: Space) -> Space:
    """Return the space with one more output axis, of extent 1, in front."""
    shifted = {n: ex.index(n + 1) for n in range(len(space.extents))}
    roots = tuple(ex.substitute(root, shifted) for root in space.roots)
    return Space((1, *space.extents), 1, roots, ex.substitute(space.store, shifted))
