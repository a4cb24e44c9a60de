"""Instruction sets: one file each, found by listing this package.

A file defines exactly one :class:`Isa`, whose name is the file's.  It says how 8-bit
activations are stored and brings two register-blocked inner kernels, integer and float32.

The packed weights of one block of ``nv * lanes`` output channels are, whatever the
instruction set, ``[K / group][nv * lanes][group]``: the K values of one dot instruction are
neighbours.  The convolution generator walks K in steps and asks the inner kernel to emit each.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qcompile.errors import TargetError
from qcompile.kernels.builder import Builder, Expr, Index, Memory


class MicroKernel(Protocol):
    """Multiplies ``mr`` rows of A by ``nv`` vectors of ``lanes`` output channels in registers.

    Attributes:
        a_dtype: element type of the rows as the kernel reads them; where it differs from the
            stored activations, the generator widens rows into scratch first.
        b_dtype: element type of the packed weights.
        lanes: output channels in one result vector.
        group: K values a packed channel keeps together; runs of K are padded to it with zero
            weights, so up to ``group * unroll - 1`` elements of A past a run may be read, and
            must not matter (integers only).
        unroll: groups which one full step consumes.
        tiles: register tiles (mr, nv) worth trying, largest first.
    """

    @property
    def a_dtype(self) -> str:
        """Element type of the rows, as read."""

    @property
    def b_dtype(self) -> str:
        """Element type of the packed weights."""

    @property
    def lanes(self) -> int:
        """Output channels in a result vector."""

    @property
    def group(self) -> int:
        """K values of one dot."""

    @property
    def unroll(self) -> int:
        """Groups of a full step."""

    @property
    def tiles(self) -> Sequence[tuple[int, int]]:
        """Register tiles."""

    def cycles(self, mr: int, nv: int) -> float:
        """Estimated cycles of one group (``mr * nv * lanes * group`` products)."""
        ...

    def start(self, b: Builder, mr: int, nv: int, bias: Sequence[Expr]) -> Any:
        """Emit accumulators that start at ``bias`` (nv vectors); returns the kernel's own state."""
        ...

    def step(
        self, b: Builder, state: Any, a: Memory, rows: Sequence[Index], w: Memory, at: Index, groups: int
    ) -> None:
        """Emit ``groups`` (1..unroll) dot groups.

        Args:
            b: builder.
            state: what ``start`` returned.
            a: activations, elements of ``a_dtype``.
            rows: element index of the first K value, one per row (mr of them).
            w: packed weights, elements of ``b_dtype``.
            at: element index of the first group in ``w``; the next follows nv*lanes*group later.
            groups: number of groups.
        """
        ...

    def result(self, b: Builder, state: Any, row: int) -> list[Expr]:
        """Finished sums of one row, bias included: nv vectors of ``lanes``."""
        ...


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    Attributes:
        name: the file's name.
        activation_dtype: how an int8 activation is stored: "int8" (q) or "uint8" (q + 128).
        vector_bytes: width of a natural vector for elementwise loops.
        int8: inner kernel for 8-bit convolution and matmul, int32 sums.
        float32: inner kernel for float32.
        round_clamp: ``f(value, lo, hi)``: int32 vector ``int(rne(min(max(value, lo), hi)))`` of
            float32 vectors, NaN giving lo; |lo|, |hi| <= 2^22 and integral.
        lookup: ``f(b, table, codes)``: bytes ``table[code]`` for a uint8 vector of codes, table a
            256-byte Memory; None: the generator looks codes up one at a time.
    """

    name: str
    activation_dtype: str
    vector_bytes: int
    int8: MicroKernel
    float32: MicroKernel
    round_clamp: Callable[[Expr, Expr, Expr], Expr]
    lookup: Callable[[Builder, Memory, Expr], Expr] | None = None


def names() -> list[str]:
    """Names of the instruction sets, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Isa:
    """Import an instruction set by name.

    Raises:
        TargetError: there is no such file, or it does not define one Isa of that name.
    """
    if name not in names():
        raise TargetError(f"unknown instruction set '{name}'", hint=f"known: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [value for value in vars(module).values() if isinstance(value, Isa)]
    if len(found) != 1 or found[0].name != name:
        raise TargetError(f"isa/{name}.py must define exactly one Isa, named '{name}'")
    return found[0]
