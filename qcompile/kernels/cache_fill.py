"""A kept tensor written once: in the run that starts a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.builder import Builder, const, index
from qcompile.kernels.emit import memory_dtype
from qcompile.kernels.expression import ITEMSIZE
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol


@dataclass(frozen=True)
class FillWorkload:
    """A tensor copied where a length is 0.

    Args:
        rows: of the tensor.
        row: elements of a row.
        dtype: element type in memory.
    """

    rows: int
    row: int
    dtype: str


def fill_kernel(work: FillWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 is what is copied, p1 where to, p2 the length. An item of work is a row."""
    name = symbol("fill", work, isa.name)
    b = Builder()
    dtype = memory_dtype(work.dtype)
    x, cache, length = b.argument(0, dtype), b.argument(1, dtype), b.argument(2, "int64")
    lanes = max(1, isa.vector_bytes // ITEMSIZE[work.dtype])
    whole = work.row // lanes
    starts = b.let(tirx.EQ(b.let(length.load(index(0))), const(0, "int64")))
    with b.when(starts), b.loop(b.end - b.begin, b.begin, stem="row") as row:
        start = b.let(index(row) * index(work.row))
        if whole:
            with b.loop(whole, stem="v") as v:
                at = b.let(start + index(v) * index(lanes))
                cache.store(at, b.let(x.load(at, lanes)), lanes)
        for rest in range(whole * lanes, work.row):
            at = b.let(start + index(rest))
            cache.store(at, b.let(x.load(at)))
    return Kernel(name, b.function(name), work.rows, 0)
