"""Open extents, each with a least and a largest value: one bundle serves all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """One open extent; the graph's own types have its largest value.

    Args:
        name: as the user called it.
        least: smallest extent, at least 1.
        most: largest extent, a whole number of steps above the smallest.
        step: distance of the extents that are allowed.
        places: (input, axis) pairs that have it.
        past: for the length of a growing sequence the kept tensor that counts its places before the run; "" else.
        new: the symbol, or the number, of places that a run adds to it.
    """

    name: str
    least: int
    most: int
    step: int = 1
    places: tuple[tuple[str, int], ...] = ()
    past: str = ""
    new: str = ""

    @property
    def values(self) -> range:
        """All extents, ascending."""
        return range(self.least, self.most + 1, self.step)


@dataclass(frozen=True)
class Extent:
    """The extent of an axis as a function of one symbol.

    Args:
        symbol: its name.
        table: the extent for each value of the symbol, from the least on.
    """

    symbol: str
    table: tuple[int, ...]

    @property
    def most(self) -> int:
        """The extent at the symbol's largest value."""
        return self.table[-1]

    @property
    def least(self) -> int:
        """The extent at the symbol's smallest value."""
        return self.table[0]


FIRST_RUN = Extent("first run", (1, 0))
"""1 in a run that starts a growing sequence, 0 in all others: what the length before the run tells."""


Axes = tuple["Extent | None", ...]
"""The open extents of a tensor's axes, None where an axis is fixed."""
