"""Readers bring calibration samples from where the user keeps them.

Adding a reader is adding a file to this package: it holds one subclass of Reader, named after the file, and
is found by listing the package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from qcompile.calibrate.preprocess import Preprocess
from qcompile.calibrate.sample import InputSpec

MOST_SAMPLES = 256
"""How many samples a reader takes from a larger set unless told; more change ranges very little."""

RUN = 8
"""Samples of a sequence that are taken one after the other."""

LEAD = 8
"""Samples before a run that lead to it: what they leave behind is what a sequence leaves, and a jump leaves not."""


@dataclass(frozen=True)
class Request:
    """What samples are wanted.

    Args:
        inputs: what the model takes.
        preprocess: how photographs become tensors; fields left open are chosen for the model.
        limit: largest number of samples, or None for the reader's own choice.
        crops_per_image: samples to cut from each photograph, or None for the reader's own choice.
        spare: samples beyond the limit to set aside, at most: what they show, calibration has not seen.
        kept: inputs of the model that no sample gives, because its own outputs supply them: samples are a sequence.
        leads: whether a reader may give samples of a sequence that do no more than lead to others.
    """

    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess
    limit: int | None = None
    crops_per_image: int | None = None
    spare: int = 0
    kept: tuple[str, ...] = ()
    leads: bool = False

    def choose(self, total: int, limit: int) -> Choice:
        """Return which of many samples to take.

        Args:
            total: how many there are.
            limit: to take at most, those that lead to others apart.
        """
        if not self.kept:
            return Choice(spaced(total, limit), frozenset(), "evenly spaced")
        if self.leads and total > limit and limit >= 2 * RUN:
            return Choice(*spaced_runs(total, limit), "in evenly spaced runs of one after the other")
        return Choice(range(min(total, limit)), frozenset(), "the first, as each goes on where the one before it ended")


class Choice(NamedTuple):
    """Samples that a reader takes of many.

    Args:
        indices: of them, ascending.
        leading: the places, among those, of samples that do no more than lead to others.
        how: they were chosen, in words.
    """

    indices: Sequence[int]
    leading: frozenset[int]
    how: str

    @property
    def taken(self) -> int:
        """How many count."""
        return len(self.indices) - len(self.leading)


class Reader(ABC):
    """Yields calibration samples one at a time.

    Attributes:
        source: what the user gave.
        request: what is wanted.
        notes: what the reader chose by itself, one sentence each, for the user to read.
        preprocess: the resolved steps, where there are any.
        leading: places of samples that are no more than what comes before the next ones in a sequence.
    """

    name: ClassVar[str]

    def __init__(self, source: str, request: Request) -> None:
        self.source = source
        self.request = request
        self.notes: list[str] = []
        self.preprocess: Preprocess | None = None
        self.leading: frozenset[int] = frozenset()

    @classmethod
    @abstractmethod
    def claims(cls, source: str) -> bool:
        """Return whether a source is for this reader; at most one may claim it."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, object]]:
        """Yield (where the sample comes from, the sample unchecked), the same in every pass."""

    def spares(self) -> Iterator[tuple[str, object]]:
        """Yield samples that iterating does not, as it does: `request.spare` at most, and none that resemble those."""
        return iter(())

    @abstractmethod
    def size(self) -> int | None:
        """Return the number of samples, those that lead to others apart; None where it is not known before the end."""


def spaced_apart(total: int, chosen: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the indices below `total` that were not chosen, evenly spaced, ascending."""
    taken = set(chosen)
    left = [index for index in range(total) if index not in taken]
    return [left[place] for place in spaced(len(left), count)]


def spaced(total: int, limit: int) -> Sequence[int]:
    """Return at most `limit` indices below `total`, evenly spaced, ascending."""
    if total <= limit:
        return range(total)
    return [int(i) for i in (np.arange(limit, dtype=np.int64) * total) // limit]


def spaced_runs(total: int, limit: int) -> tuple[list[int], frozenset[int]]:
    """Return at most `limit` indices below `total` in evenly spaced runs of neighbours, with those that lead to them.

    A sequence of which every hundredth sample were taken would have differences from one to the next that it has not.

    Returns:
        The indices, ascending, and the places of those that lead to others.
    """
    if total <= limit:
        return list(range(total)), frozenset()
    runs = max(1, limit // RUN)
    chosen: list[int] = []
    leading: set[int] = set()
    for run in range(runs):
        skipped = (total - limit) * run // max(runs - 1, 1)
        first, last = limit * run // runs + skipped, limit * (run + 1) // runs + skipped
        before = range(max(first - LEAD, chosen[-1] + 1), first) if chosen else range(0)
        leading.update(range(len(chosen), len(chosen) + len(before)))
        chosen += [*before, *range(first, last)]
    return chosen, frozenset(leading)
