"""Maps whose operand is contiguous along another axis than the output: blocks turned in registers.

A block is `rows` vectors of `lanes` elements, loaded along the operand's axis and computed there, so that a
conversion (an image's quantization) costs nothing extra; zips of pairs of vectors then bring the output's axis
inside. The image edge NCHW → NHWC with three channels is one such block of three rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, Memory, index, shuffle
from qcompile.kernels.emit import Emitter, store_value
from qcompile.kernels.isa import Isa
from qcompile.kernels.space import Nest, Place, Space, for_each_vector, plan_nest

_MOST_LANES = 16
_WHOLE_ROWS = 4


def contiguous_elsewhere(space: Space) -> int | None:
    """Return the axis along which to load, where that is not the output's, else None.

    It is an axis along which some load is contiguous, while along the output's innermost axis that load strides
    and no other load is contiguous.
    """
    inner = len(space.extents) - 1
    if inner < 1 or ex.affine(space.store).coefficient(inner) != 1:
        return None
    forms = [ex.affine(n.args[0]) for n in ex.walk(space.roots) if n.op in ("load", "load_or")]
    if any(form.opaque for form in forms) or any(n.op == "load_or" for n in ex.walk(space.roots)):
        return None
    if any(form.coefficient(inner) == 1 for form in forms):
        return None
    striding = [form for form in forms if form.coefficient(inner)]
    axes = [n for n in range(inner) if any(form.coefficient(n) == 1 for form in striding) and space.extents[n] >= 4]
    return max(axes, key=lambda n: space.extents[n]) if axes else None


def transposing(b: Builder, space: Space, along: int, memories: dict[int, Memory], isa: Isa) -> Nest:
    """Emit the loops; returns how they are cut.

    Args:
        b: builder.
        space: its innermost axis is the output's contiguous one.
        along: axis of the vectors.
        memories: buffers by number, the output last.
        isa: instruction set.
    """
    inner = len(space.extents) - 1
    rows_extent = space.extents[inner]
    lanes = isa.vector_bytes // _widest(space.roots[0])
    if isa.map_lanes and ex.ITEMSIZE[space.roots[0].dtype] == 1:
        lanes = isa.map_lanes
    lanes = min(_MOST_LANES, lanes)
    while lanes > space.extents[along]:
        lanes //= 2
    # The innermost axis leaves the nest: the body covers it block by block.
    nest = plan_nest(space.extents[:inner], along, lanes, rows_extent)

    def body(place: Place, width: int) -> None:
        block = rows_extent if rows_extent <= _WHOLE_ROWS else max(2, width)
        whole = rows_extent // block
        if whole:
            with b.loop(whole, stem="c") as c:
                _block(b, space, along, memories, isa, {**place, inner: b.let(index(c) * index(block))}, width, block)
        done, piece = whole * block, block
        while done < rows_extent:
            if done + piece <= rows_extent:
                _block(b, space, along, memories, isa, {**place, inner: index(done)}, width, piece)
                done += piece
            else:
                piece = 1 << ((piece - 1).bit_length() - 1)

    for_each_vector(b, nest, body)
    return nest


def _widest(root: ex.Expr) -> int:
    sizes = [ex.ITEMSIZE[root.dtype]]
    stack = [root]
    while stack:
        node = stack.pop()
        sizes.append(ex.ITEMSIZE[node.dtype])
        stack.extend(node.args[1:] if node.op in ("load", "load_or") else node.args)
    return max(sizes)


def _block(
    b: Builder, space: Space, along: int, memories: dict[int, Memory], isa: Isa, place: Place, width: int, rows: int
) -> None:
    """Emit one block of `rows` output elements by `width` positions."""
    inner = len(space.extents) - 1
    target, value = memories[len(memories) - 1], space.roots[0]
    columns = []
    for row in range(rows):
        there = {**place, inner: place[inner] + index(row)}
        emitter = Emitter(b, isa, memories, there, along, width)
        columns.append(store_value(emitter.value(value), value.dtype, width))
    start = b.let(Emitter(b, isa, memories, place, None, 1).offset(space.store))
    form = ex.affine(space.store)
    if width == 1:
        for row, column in enumerate(columns):
            target.store(start + index(row), column)
        return
    flat = interleave(b, [b.let(column) for column in columns])
    stride = form.coefficient(along)
    if stride == rows:
        for number, vector in enumerate(flat):
            target.store(start + index(number * width), vector, width)
        return
    _store_rows(b, target, flat, start, stride, rows, width)


def _store_rows(
    b: Builder, target: Memory, flat: Sequence[Expr], start: Expr, stride: int, rows: int, width: int
) -> None:
    """Store each position's `rows` elements, which lie one after another in the vectors of `flat`."""
    for position in range(width):
        first = position * rows
        to = start + index(position * stride)
        if first // width == (first + rows - 1) // width:
            vector, lane = flat[first // width], first % width
            part = vector if rows == width else shuffle([vector], range(lane, lane + rows))
            target.store(to, part, rows)
        else:
            for row in range(rows):
                vector, lane = flat[(first + row) // width], (first + row) % width
                target.store(to + index(row), shuffle([vector], [lane]))


def interleave(b: Builder, vectors: list[Expr]) -> list[Expr]:
    """Return the elements of the vectors in turn: the first of each, then the second of each."""
    count = len(vectors)
    if count == 1:
        return vectors
    width = int(str(vectors[0].ty.dtype).partition("x")[2])
    if count % 2:
        order = [row * width + lane for lane in range(width) for row in range(count)]
        return [b.let(shuffle(vectors, order[n * width : (n + 1) * width])) for n in range(count)]
    even, odd = interleave(b, vectors[0::2]), interleave(b, vectors[1::2])
    out = []
    for x, y in zip(even, odd, strict=True):
        zipped = [lane for pair in zip(range(width), range(width, 2 * width), strict=True) for lane in pair]
        out.append(b.let(shuffle([x, y], zipped[:width])))
        out.append(b.let(shuffle([x, y], zipped[width:])))
    return out
