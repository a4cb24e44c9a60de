"""Codes through a table of 256 entries, as the instruction set stores them."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.kernels.builder import Builder, cast, index
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol
from qcompile.kernels.space import Place, for_each_vector, plan_nest

_UNROLLED = 16


@dataclass(frozen=True)
class TableWorkload:
    """A look-up of every element.

    Args:
        size: elements.
    """

    size: int


def table_kernel(work: TableWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 are codes, p1 the table (`conv_packing.pack_table`), p2 the result.

    An instruction set without a look-up of its own takes the codes one by one, which is bound by two loads a byte.
    """
    name = symbol("table", work, isa.name)
    b = Builder()
    codes, table, result = (b.argument(n, "uint8") for n in range(3))
    wide = isa.vector_bytes if isa.lookup is not None else _UNROLLED
    while wide > work.size:
        wide //= 2
    nest = plan_nest((work.size,), 0, wide)

    def body(place: Place, lanes: int) -> None:
        at = b.let(index(place[0]))
        if isa.lookup is not None and lanes == isa.vector_bytes:
            result.store(at, isa.lookup(b, table, b.let(codes.load(at, lanes))), lanes)
            return
        for n in range(lanes):
            result.store(at + index(n), table.load(cast("int64", codes.load(at + index(n)))))

    for_each_vector(b, nest, body)
    return Kernel(name, b.function(name), nest.tiles, 0, nest.levels())
