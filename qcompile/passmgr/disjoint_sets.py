"""Numbers that turn out to be equal, as channels that can only change together."""

from __future__ import annotations

from collections.abc import Iterable


class DisjointSets:
    """Numbers from 0 on in sets that are united step by step; the least of each stands for it.

    Source:
        Galler and Fisher, "An improved equivalence algorithm", 1964, with paths that are halved.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []

    def __len__(self) -> int:
        return len(self._parents)

    def add(self, count: int) -> range:
        """Return so many new numbers, each a set of its own."""
        new = range(len(self._parents), len(self._parents) + count)
        self._parents.extend(new)
        return new

    def root(self, number: int) -> int:
        """Return what stands for the set of a number."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def unite(self, a: Iterable[int], b: Iterable[int]) -> None:
        """Unite the sets of numbers pair by pair."""
        for x, y in zip(a, b, strict=True):
            x, y = self.root(x), self.root(y)
            self._parents[max(x, y)] = min(x, y)
