"""Where a row of flags is set, in order."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from qcompile.kernels.builder import Builder, const, index
from qcompile.kernels.emit import memory_dtype
from qcompile.kernels.isa import Isa
from qcompile.kernels.kernel import Kernel, symbol


@dataclass(frozen=True)
class PositionsWorkload:
    """y = the number of flags that are set, then where they are, then zeros.

    Args:
        flags: how many there are, set or not.
    """

    flags: int


def positions_kernel(work: PositionsWorkload, isa: Isa) -> Kernel:
    """Generate the kernel; p0 are the flags, p1 is y.

    Each place follows from the flags before it, so there is one tile. Every flag's place is written, and the next one
    written over it where the flag is not set: nothing depends on a branch.
    """
    name = symbol("positions", work, isa.name)
    b = Builder()
    flag_type = memory_dtype("bool")
    flags, y = b.argument(0, flag_type), b.argument(1, "int64")
    with b.loop(b.end - b.begin, b.begin, stem="tile"):
        found = b.register("int64", const(0, "int64"))
        with b.loop(work.flags, stem="i") as i:
            flag = tirx.NE(flags.load(index(i)), const(0, flag_type))
            y.store(b.let(found.get() + index(1)), tirx.Cast("int64", index(i)))
            found.set(found.get() + tirx.Select(flag, const(1, "int64"), const(0, "int64")))
        y.store(index(0), found.get())
        with b.loop(work.flags - found.get(), stem="rest") as k:
            y.store(b.let(found.get() + index(1) + tirx.Cast("int64", k)), const(0, "int64"))
    return Kernel(name, b.function(name), 1, 0)
