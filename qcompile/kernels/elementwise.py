"""Map kernels: every output element is an expression of its index.

Axes that all operands walk alike are merged, so that an elementwise operation on tensors of one shape is a single
vector loop. The vector axis is the one along which the output is contiguous; where an operand is contiguous along
another axis instead, `qcompile.kernels.transpose` works in square blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, Memory, index
from qcompile.kernels.emit import Emitter, memory_dtype, store_value
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.space import Nest, Place, Space, for_each_vector, plan_nest
from qcompile.kernels.transpose import contiguous_elsewhere, transposing


@dataclass(frozen=True)
class MapWorkload:
    """One elementwise loop nest.

    Args:
        extents: of the iteration space; (1,) at least.
        buffers: element type of each buffer; the last one is the output.
        value: the element to store, in indices of the space and loads from the buffers.
        store: offset in the output, elements.
    """

    extents: tuple[int, ...]
    buffers: tuple[str, ...]
    value: ex.Expr
    store: ex.Expr

    def space(self) -> Space:
        """Return the simplified iteration space; its only root is the value."""
        return Space(self.extents, len(self.extents), (self.value,), self.store).simplified()

    def may_overwrite(self, buffer: int) -> bool:
        """Return whether the output may share the memory of an operand: each element is read where it is written."""
        if ex.ITEMSIZE[self.buffers[buffer]] != ex.ITEMSIZE[self.buffers[-1]]:
            return False
        space = self.space()
        target = ex.affine(space.store)
        loads = [n for n in ex.walk(space.roots) if n.op in ("load", "load_or") and n.data == buffer]
        return all(ex.affine(node.args[0]) == target for node in loads)


def widest_lanes(isa: Isa, roots: Sequence[ex.Expr], least: int = 1) -> int:
    """Return how many lanes of the widest element computed with fill a vector register.

    Args:
        isa: instruction set.
        roots: expressions of one loop.
        least: bytes to count at least.
    """
    sizes = [least]
    for root in roots:
        stack = [root]
        while stack:
            node = stack.pop()
            sizes.append(ex.ITEMSIZE[node.dtype])
            stack.extend(part for k, part in enumerate(node.args) if not (k == 0 and node.op in ("load", "load_or")))
    return max(1, isa.vector_bytes // max(sizes))


def map_lanes(isa: Isa, roots: Sequence[ex.Expr], axis: int, least: int = 1) -> int:
    """Return how many elements to compute at once along an axis.

    Args:
        isa: instruction set.
        roots: expressions of one loop.
        axis: of the vectors.
        least: bytes of an element to count at least.
    """
    if isa.map_lanes and all(_is_arithmetic(root, axis) for root in roots):
        return isa.map_lanes
    return widest_lanes(isa, roots, least)


_ARITHMETIC = frozenset(
    {"const", "accumulator", "add", "sub", "mul", "shr", "max", "min", "cast", "flip", "round_clamp"}
)
_MOST_NODES = 40


def _is_arithmetic(root: ex.Expr, axis: int) -> bool:
    """Return whether a vector of any width is cheap: few instructions each, and neighbouring elements of memory."""
    stack, count = [root], 0
    while stack:
        node = stack.pop()
        if not _varies(node, axis):
            continue
        count += 1
        if ex.ITEMSIZE[node.dtype] > 4 or count > _MOST_NODES:
            return False
        if node.op == "load":
            form = ex.affine(node.args[0])
            if any(_varies(part, axis) for part in form.opaque) or form.coefficient(axis) not in (0, 1):
                return False
        elif node.op in _ARITHMETIC:
            stack.extend(node.args)
        else:
            return False
    return True


def _varies(node: ex.Expr, axis: int) -> bool:
    return any(n.op == "accumulator" or (n.op == "index" and n.data == axis) for n in ex.walk((node,)))


def map_kernel(work: MapWorkload, isa: Isa) -> Kernel:
    """Generate the kernel of an elementwise loop nest; arguments are the buffers in their order."""
    space = work.space()
    name = symbol("map", space.text(), work.buffers, isa.name)
    b = Builder()
    memories = {n: b.argument(n, memory_dtype(dtype)) for n, dtype in enumerate(work.buffers)}
    along = contiguous_elsewhere(space)
    if along is not None:
        turned = transposing(b, space, along, memories, isa)
        return Kernel(name, b.function(name), turned.tiles, 0, turned.levels(space.extents[-1]))
    extents = space.extents or (1,)
    lanes = _lanes_for(space, isa)
    nest = plan_nest(extents, len(extents) - 1, lanes)
    _emit_map(b, space, nest, memories, isa)
    return Kernel(name, b.function(name), nest.tiles, 0, nest.levels())


def _lanes_for(space: Space, isa: Isa) -> int:
    lanes = map_lanes(isa, (space.roots[0],), len(space.extents) - 1)
    extent = space.extents[-1] if space.extents else 1
    while lanes > 1 and lanes > extent:
        lanes //= 2
    return lanes


def _emit_map(b: Builder, space: Space, nest: Nest, memories: dict[int, Memory], isa: Isa) -> None:
    target = memories[len(memories) - 1]

    def body(place: Place, lanes: int) -> None:
        emitter = Emitter(b, isa, memories, place, nest.axis, lanes)
        store(emitter, target, space.store, emitter.value(space.roots[0]), space.roots[0].dtype)

    for_each_vector(b, nest, body)


def store(emitter: Emitter, target: Memory, position: ex.Expr, value: Expr, dtype: str) -> None:
    """Write one vector at a position that moves by a constant stride."""
    lanes, start = emitter.lanes, emitter.b.let(emitter.offset(position))
    written = store_value(value, dtype, lanes)
    stride = emitter.stride(position) if lanes > 1 else 1
    if stride == 1:
        target.store(start, written, lanes)
    else:
        target.scatter(tirx.Ramp(start, index(stride), lanes), written)
