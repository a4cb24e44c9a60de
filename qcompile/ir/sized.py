"""What operations share whose result follows from open extents, not from their operands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from qcompile.ir.opdef import OpDef
from qcompile.ir.symbol import Extent


class Sized(OpDef):
    """An operation with tables over the values of symbols.

    While a graph has one size at a time the attributes say which entries hold. In its final form the last operand
    holds the actual extents (int32), and the attributes say which of them to read.
    """

    sized: ClassVar[bool] = True

    def at_sizes(self, attrs: Any, positions: Mapping[str, int]) -> Any:
        """Return the attributes where each symbol has one of its values.

        Args:
            attrs: of a node.
            positions: which of its values each symbol has, counted from 0.
        """
        return replace(attrs, at=positions[attrs.symbol])

    def read_extents(self, attrs: Any) -> tuple[Extent, ...]:
        """Return what the final form reads."""
        return (Extent(attrs.symbol, attrs.table),)

    def with_entries(self, attrs: Any, entries: Sequence[int]) -> Any:
        """Return the attributes of the final form.

        Args:
            attrs: of a node.
            entries: the number, in the operand of actual extents, of each of `read_extents`.
        """
        return replace(attrs, entry=entries[0])
