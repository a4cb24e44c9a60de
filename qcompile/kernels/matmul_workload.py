"""What a product of two activations is, for all generators of its code."""

from __future__ import annotations

from dataclasses import dataclass

from qcompile.kernels import expression as ex
from qcompile.kernels.builder import Builder, Expr, Index, index, quotient, remainder


@dataclass(frozen=True)
class MatmulWorkload:
    """c[batch, m, n] = Σ a[batch, m, k] · b[batch, k, n].

    Args:
        batch: extents of the result's leading axes.
        a_steps: elements of A from one index of each leading axis to the next; 0 where A is repeated.
        b_steps: likewise of B.
        rows: M.
        inner: K.
        columns: N.
        stored: element types in memory of A, B and C.
        zero_points: of A and B as they are stored; integers only.
        finish: C's element from the leaf "accumulator"; integers only.
    """

    batch: tuple[int, ...]
    a_steps: tuple[int, ...]
    b_steps: tuple[int, ...]
    rows: int
    inner: int
    columns: int
    stored: tuple[str, str, str] = ("float32", "float32", "float32")
    zero_points: tuple[int, int] = (0, 0)
    finish: ex.Expr | None = None

    @property
    def integer(self) -> bool:
        """Whether the operands are codes."""
        return self.finish is not None

    def text(self) -> str:
        """Return what decides the code."""
        parts = (self.batch, self.a_steps, self.b_steps, self.rows, self.inner, self.columns, self.stored)
        return f"{parts}{self.zero_points}{ex.text((self.finish,)) if self.finish is not None else ''}"


def matrix_bases(b: Builder, work: MatmulWorkload, entry: Index) -> tuple[Expr, Expr]:
    """Emit the first elements of A's and B's matrices of a batch entry."""
    a_base, b_base, rest = index(0), index(0), index(entry)
    for axis in reversed(range(len(work.batch))):
        at = b.let(remainder(rest, work.batch[axis])) if axis else rest
        rest = b.let(quotient(rest, work.batch[axis])) if axis else rest
        a_base = a_base + at * index(work.a_steps[axis])
        b_base = b_base + at * index(work.b_steps[axis])
    return b.let(a_base), b.let(b_base)
