"""Open extents, each with a least and a largest value: one bundle serves all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

JOINT = "*"
"""Between the names of symbols that an extent follows from together."""

MOST_JOINED = 3
"""As many symbols as an extent may follow from; `qc_runtime.h` has room for no more."""

MOST_VALUES = 1 << 16
"""As many entries as the table of an extent may have."""


@dataclass(frozen=True)
class Symbol:
    """One open extent; the graph's own types have its largest value.

    Args:
        name: as the user called it.
        least: smallest extent, at least 0.
        most: largest extent, a whole number of steps above the smallest.
        step: distance of the extents that are allowed.
        places: (input, axis) pairs that have it.
        past: for the length of a growing sequence the kept tensor that counts its places before the run; "" else.
        new: the symbol, or the number, of places that a run adds to it.
        kept: the kept tensor that holds the extent from the run that starts a growing sequence on, which later runs
            share; "" where each run has its own.
    """

    name: str
    least: int
    most: int
    step: int = 1
    places: tuple[tuple[str, int], ...] = ()
    past: str = ""
    new: str = ""
    kept: str = ""

    @property
    def values(self) -> range:
        """All extents, ascending."""
        return range(self.least, self.most + 1, self.step)


@dataclass(frozen=True)
class Extent:
    """The extent of an axis as a function of one symbol, or of several together.

    Args:
        symbol: its name; "H*W" for several, in alphabetical order.
        table: the extent for each value of the symbol, from the least on; of several, the last one changes fastest.
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


class Positions(dict[str, int]):
    """Which of its values each symbol has, counted from 0; for joint symbols, too.

    Args:
        known: by the name of a symbol.
        counts: how many values each symbol has.
    """

    def __init__(self, known: Mapping[str, int], counts: Mapping[str, int]) -> None:
        super().__init__(known)
        self._counts = counts

    def __missing__(self, name: str) -> int:
        if JOINT not in name:
            raise KeyError(name)
        place = 0
        for part in name.split(JOINT):
            place = place * self._counts[part] + self[part]
        return place


def joint_name(symbols: Sequence[str]) -> str:
    """Return the name of several symbols together, joint ones among them."""
    return JOINT.join(sorted({part for symbol in symbols for part in symbol.split(JOINT)}))


def joined(extents: Sequence[Extent], counts: Mapping[str, int]) -> list[Extent]:
    """Return extents as functions of all the symbols that any of them follows from.

    Args:
        extents: of one symbol or several.
        counts: how many values each symbol has.

    Raises:
        ValueError: these are too many symbols, or values.
    """
    name = joint_name([extent.symbol for extent in extents])
    parts = name.split(JOINT)
    shape = [counts[part] for part in parts]
    if len(parts) > MOST_JOINED or np.prod(shape) > MOST_VALUES:
        raise ValueError(f"{name} has {np.prod(shape)} combinations of {len(parts)} extents")
    found = []
    for extent in extents:
        own = extent.symbol.split(JOINT)
        table = np.array(extent.table).reshape([counts[p] if p in own else 1 for p in parts])
        found.append(Extent(name, tuple(np.broadcast_to(table, shape).reshape(-1).tolist())))
    return found


def reduced(extent: Extent, counts: Mapping[str, int]) -> Extent:
    """Return an extent as a function of those of its symbols alone that matter.

    Args:
        extent: of one symbol or several.
        counts: how many values each symbol has.
    """
    parts = extent.symbol.split(JOINT)
    table = np.array(extent.table).reshape([counts[part] for part in parts])
    for axis in reversed(range(len(parts))):
        last = np.take(table, -1, axis)
        if len(parts) > 1 and (table == np.expand_dims(last, axis)).all():
            table = last
            del parts[axis]
    return Extent(JOINT.join(parts), tuple(table.reshape(-1).tolist()))
