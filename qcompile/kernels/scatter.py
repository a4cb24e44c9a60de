"""Rows written, or combined, at computed places, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.builder import Builder, Expr, const, index, less
from qcompile.kernels.emit import memory_dtype
from qcompile.kernels.expression import ITEMSIZE
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol

_COMBINE = {
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": tirx.Max,
    "min": tirx.Min,
}


@dataclass(frozen=True)
class ScatterWorkload:
    """y[numbers[m]] = updates[m], or combined with what is there.

    Args:
        count: rows of y.
        rows: updates.
        row: elements of a row.
        dtype: element type in memory.
        reduction: "none", "add", "mul", "max" or "min".
    """

    count: int
    rows: int
    row: int
    dtype: str
    reduction: str


def scatter_kernel(work: ScatterWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 are the row numbers, p1 the updates, p2 is y, which holds x already.

    Rows may meet the same place, so there is one tile: their order decides.
    """
    name = symbol("scatter", work, isa.name)
    b = Builder()
    dtype = memory_dtype(work.dtype)
    numbers, updates, y = (b.argument(n, kind) for n, kind in enumerate(("int64", dtype, dtype)))
    lanes = max(1, isa.vector_bytes // ITEMSIZE[work.dtype])

    def piece(to: Expr, source: Expr, at: Expr, width: int) -> None:
        value = updates.load(source + at, width)
        if work.reduction != "none":
            value = _COMBINE[work.reduction](y.load(to + at, width), value)
        y.store(b.let(to + at), b.let(value), width)

    with b.loop(b.end - b.begin, b.begin, stem="tile"), b.loop(work.rows, stem="m") as m:
        number = b.let(numbers.load(index(m)))
        inside = tirx.And(tirx.GE(number, const(0, "int64")), less(number, work.count))
        with b.when(inside):
            to, source = b.let(number * index(work.row)), b.let(index(m) * index(work.row))
            whole = work.row // lanes
            if whole:
                with b.loop(whole, stem="v") as v:
                    piece(to, source, b.let(index(v) * index(lanes)), lanes)
            for at in range(whole * lanes, work.row):
                piece(to, source, index(at), 1)
    return Kernel(name, b.function(name), 1, 0)
