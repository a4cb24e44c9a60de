"""Iteration spaces of generic kernels: axes merged where memory allows, then cut into tiles and vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, Index, equal, index, quotient, remainder

WANTED_TILES = 16
_CHUNK_ELEMENTS = 2048

Place = dict[int, Expr]


def positions(roots: Sequence[ex.Expr]) -> list[ex.Expr]:
    """Return the offsets of all loads within expressions."""
    found = (node.args[0] for node in ex.walk(tuple(roots)) if node.op in ("load", "load_or"))
    return list(dict.fromkeys(found))


def _axes_outside_loads(roots: Sequence[ex.Expr]) -> set[int]:
    """Return the axes whose index is used as a number, not only to walk memory."""
    found: set[int] = set()
    seen: set[ex.Expr] = set()
    stack = list(roots)
    for position in positions(roots):
        stack.extend(part for part in ex.affine(position).opaque)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "index":
            found.add(node.data)
        stack.extend(node.args[1:] if node.op in ("load", "load_or") else node.args)
    return found


@dataclass(frozen=True)
class Space:
    """An iteration space with the expressions over it.

    Args:
        extents: of each axis; axes of the output first, then those of a reduction.
        outer: number of output axes.
        roots: expressions in indices of the axes.
        store: offset of the output element, or None where it is implied.
    """

    extents: tuple[int, ...]
    outer: int
    roots: tuple[ex.Expr, ...]
    store: ex.Expr

    def simplified(self) -> Space:
        """Return the same space without unit axes, and with neighbouring axes merged where all memory allows."""
        space = self._renumbered([n for n, extent in enumerate(self.extents) if extent != 1], {})
        axis = len(space.extents) - 2
        while axis >= 0:
            if space._mergeable(axis):
                space = space._merged(axis)
            axis -= 1
        return space

    def _mergeable(self, axis: int) -> bool:
        if axis + 1 == self.outer:
            return False
        pinned = _axes_outside_loads([*self.roots])
        if pinned & {axis, axis + 1}:
            return False
        forms = [ex.affine(position) for position in [*positions(self.roots), self.store]]
        inner = self.extents[axis + 1]
        return all(form.coefficient(axis) == form.coefficient(axis + 1) * inner for form in forms)

    def _merged(self, axis: int) -> Space:
        extents = list(self.extents)
        extents[axis + 1] *= extents[axis]
        kept = [n for n in range(len(extents)) if n != axis]
        outer = self.outer
        grown = Space(tuple(extents), outer, self.roots, self.store)
        return grown._renumbered(kept, {})

    def _renumbered(self, kept: list[int], also: Mapping[int, ex.Expr]) -> Space:
        """Return the space with only some axes left; the index of the others becomes 0."""
        indices: dict[int, ex.Expr] = {n: ex.constant(0, "int64") for n in range(len(self.extents))}
        indices.update({old: ex.index(new) for new, old in enumerate(kept)})
        indices.update(also)
        return Space(
            tuple(self.extents[n] for n in kept),
            sum(n < self.outer for n in kept),
            tuple(ex.substitute(root, indices) for root in self.roots),
            ex.substitute(self.store, indices),
        )

    def text(self) -> str:
        """Return what decides the code: extents and expressions."""
        return f"{self.extents}/{self.outer}:{ex.text((*self.roots, self.store))}"


@dataclass(frozen=True)
class Nest:
    """How the output axes are cut into tiles of parallel work and into vectors.

    Args:
        extents: of the output axes, outermost first; the vector axis is `axis`.
        axis: the vector axis.
        lanes: elements of a vector.
        prefix: how many of the other axes, from the outermost, a tile number stands for.
        chunk: vectors of the vector axis in one tile; 0 where a tile has the whole axis.
    """

    extents: tuple[int, ...]
    axis: int
    lanes: int
    prefix: int
    chunk: int

    @property
    def others(self) -> list[int]:
        """The axes besides the vector axis, outermost first."""
        return [n for n in range(len(self.extents)) if n != self.axis]

    @property
    def vectors(self) -> int:
        """Whole vectors along the vector axis."""
        return self.extents[self.axis] // self.lanes

    @property
    def chunks(self) -> int:
        """Tiles along the vector axis."""
        return max(1, -(-self.vectors // self.chunk)) if self.chunk else 1

    @property
    def tiles(self) -> int:
        """Trip count of the parallel loop."""
        return math.prod(self.extents[n] for n in self.others[: self.prefix]) * self.chunks

    def levels(self, inside: int = 1) -> tuple[tuple[int, int], ...]:
        """Return how a tile's number is made; see `qcompile.kernels.kernel.Kernel`.

        Args:
            inside: rows for one element of the space.
        """
        rows = [math.prod(self.extents[n + 1 :]) * inside for n in range(len(self.extents))]
        if self.axis != len(self.extents) - 1:
            leading = self.prefix > 0 and self.others[0] == 0
            return ((self.extents[0], rows[0]), (self.tiles // self.extents[0], 0)) if leading else ()
        found = [(self.extents[n], rows[n]) for n in self.others[: self.prefix]]
        return (*found, (self.chunks, self.chunk * self.lanes * inside)) if self.chunks > 1 else tuple(found)


def plan_nest(extents: Sequence[int], axis: int, lanes: int, work: int = 1) -> Nest:
    """Cut a space into at least some sixteen tiles where it is large enough for that.

    Args:
        extents: of the axes, elements.
        axis: the vector axis.
        lanes: elements of a vector.
        work: elements read for one element of the space.
    """
    others = [n for n in range(len(extents)) if n != axis]
    prefix, tiles = 0, 1
    while prefix < len(others) and tiles < WANTED_TILES:
        tiles *= extents[others[prefix]]
        prefix += 1
    nest = Nest(tuple(extents), axis, lanes, prefix, 0)
    if tiles >= WANTED_TILES or prefix < len(others):
        return nest
    wanted = -(-WANTED_TILES // tiles)
    chunk = max(-(-nest.vectors // wanted), -(-_CHUNK_ELEMENTS // (lanes * work)))
    return Nest(tuple(extents), axis, lanes, prefix, chunk) if chunk < nest.vectors else nest


@contextmanager
def _nested(b: Builder, axes: Sequence[int], extents: Sequence[int], place: Place) -> Iterator[None]:
    if not axes:
        yield
        return
    with b.loop(extents[axes[0]]) as i:
        place[axes[0]] = index(i)
        with _nested(b, axes[1:], extents, place):
            yield


def for_each_vector(b: Builder, nest: Nest, body: Callable[[Place, int], None]) -> None:
    """Emit the loops over a nest.

    Args:
        b: builder.
        nest: the cut.
        body: called once per vector size with the indices of lane 0 and the lanes; emits one vector's work.
    """
    with b.loop(b.end - b.begin, b.begin, stem="tile") as tile:
        rest: Index = tile
        chunk: Index = 0
        if nest.chunks > 1:
            chunk = b.let(remainder(rest, nest.chunks))
            rest = quotient(rest, nest.chunks)
        place: Place = {}
        leading = nest.others[: nest.prefix]
        for position, axis in reversed(list(enumerate(leading))):
            if position == 0:
                place[axis] = b.let(index(rest))
            else:
                place[axis] = b.let(remainder(rest, nest.extents[axis]))
                rest = quotient(rest, nest.extents[axis])
        with _nested(b, nest.others[nest.prefix :], nest.extents, place):
            _vectors(b, nest, place, chunk, body)


def _vectors(b: Builder, nest: Nest, place: Place, chunk: Index, body: Callable[[Place, int], None]) -> None:
    """Emit the whole vectors of a chunk, and after the last chunk the rest in ever smaller vectors."""
    extent, lanes = nest.extents[nest.axis], nest.lanes
    start: Index = 0
    count: Index = nest.vectors
    if nest.chunks > 1:
        start = b.let(chunk * index(nest.chunk))
        count = b.let(tirx.Min(index(nest.chunk), index(nest.vectors) - start))
    if nest.vectors:
        with b.loop(count, start, stem="v") as v:
            body({**place, nest.axis: b.let(index(v) * index(lanes))}, lanes)
    if extent % lanes == 0:
        return
    if nest.chunks > 1:
        with b.when(equal(chunk, nest.chunks - 1)):
            _rest(nest, place, body)
    else:
        _rest(nest, place, body)


def _rest(nest: Nest, place: Place, body: Callable[[Place, int], None]) -> None:
    done, piece = nest.vectors * nest.lanes, nest.lanes
    while done < nest.extents[nest.axis]:
        if done + piece <= nest.extents[nest.axis]:
            body({**place, nest.axis: index(done)}, piece)
            done += piece
        else:
            piece //= 2
