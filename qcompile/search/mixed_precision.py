"""Chooses which nodes stay in float32: as few, and as cheap, as the goal allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompile.search.goal import Goal
from qcompile.search.plan import Step
from qcompile.search.score import Score

MOST_CHECKS = 9
"""Prefixes that are measured at most, as far as an accurate one is known by then."""

WORTH_TIME = 0.01
"""Share of the time of an inference for which no further prefix is measured."""

_MOST_LAG = 3.0
"""Decibels of predicted noise that count at most for one that was measured."""


@dataclass(frozen=True)
class Choice:
    """A measured prefix of the plan.

    Args:
        index: of the step.
        score: as measured.
    """

    index: int
    score: Score


class PrefixSearch:
    """Searches for the shortest prefix of a plan that meets a goal.

    The plan predicts the noise of each prefix; a few are measured. A prefix that misses the goal by d dB says that
    the predicted noise must sink by d dB, by more where it sank by more than was gained so far; once a prefix meets
    it, the gap to the longest that does not is closed, as far as that saves time.

    Args:
        steps: of `plan_steps`.
        goal: targets.
        measure: scores the prefix of an index.
    """

    def __init__(self, steps: Sequence[Step], goal: Goal, measure: Callable[[int], Score]) -> None:
        self._steps = steps
        self._goal = goal
        self._measure = measure
        self._known: dict[int, Score] = {}

    @property
    def measured(self) -> list[Choice]:
        """What was measured, shortest prefix first."""
        return [Choice(index, score) for index, score in sorted(self._known.items())]

    def run(self) -> Choice:
        """Return the shortest prefix that is accurate enough and, above all, fast enough.

        Where none is accurate enough within the time, that is the most accurate one within it; where not even the
        first is fast enough, it is the first.
        """
        chosen = self._shortest_accurate() if self._goal.has_accuracy else None
        if chosen is None or not self._goal.is_fast(self._known[chosen]):
            self._longest_fast(chosen if chosen is not None else len(self._steps) - 1)
            fast = [c for c in self.measured if self._goal.is_fast(c.score)]
            return min(fast, key=lambda c: self._goal.shortfall_db(c.score), default=self.measured[0])
        return Choice(chosen, self._known[chosen])

    def _score(self, index: int) -> Score:
        if index not in self._known:
            self._known[index] = self._measure(index)
        return self._known[index]

    def _shortest_accurate(self) -> int | None:
        """Return the shortest prefix found that is accurate, None where not even the whole plan is."""
        low, high, last = -1, None, len(self._steps) - 1
        candidate = 0
        while len(self._known) < MOST_CHECKS or high is None:
            if self._goal.is_accurate(self._score(candidate)):
                high = candidate
            else:
                low = candidate
            if low == last or (high is not None and (high - low <= 1 or not self._saves(low, high))):
                break
            candidate = self._next(low, high if high is not None else last + 1)
            # Half of the measurements are left to come back from the end of the plan, which is float32 throughout.
            if high is None and 2 * len(self._known) >= MOST_CHECKS:
                candidate = last
        return high

    def _saves(self, low: int, high: int) -> bool:
        """Return whether a prefix between two measured ones can be worth its measurement."""
        slow = self._known[high].ms
        return low < 0 or slow - self._known[low].ms > WORTH_TIME * slow

    def _next(self, low: int, high: int) -> int:
        """Return the prefix between two that the noise predicted and the gaps measured speak for."""
        if low < 0:
            return 0
        sink = self._lag(low) * self._goal.shortfall_db(self._known[low])
        wanted = self._steps[low].noise * 10 ** (-sink / 10)
        last = len(self._steps) - 1
        middle = (low + high) // 2 if high <= last else last
        return next((i for i in range(low + 1, high) if self._steps[i].noise <= wanted), middle)

    def _lag(self, low: int) -> float:
        """Return by how many dB the predicted noise sank for each dB that the measured noise did, at least 1."""
        before = max((i for i in self._known if i < low), default=low)
        sank = [self._steps[i].noise for i in (before, low)]
        gained = self._goal.shortfall_db(self._known[before]) - self._goal.shortfall_db(self._known[low])
        if before == low or sank[1] <= 0.0:
            return 1.0
        return min(max(10 * math.log10(sank[0] / sank[1]) / max(gained, 1e-9), 1.0), _MOST_LAG)

    def _longest_fast(self, high: int) -> None:
        """Measure prefixes until the longest that is fast enough is known, or enough were measured."""
        if not self._goal.is_fast(self._score(0)) or self._goal.max_ms is None:
            return
        if high > 0 and self._goal.is_fast(self._score(high)):
            return
        low = 0
        for _ in range(MOST_CHECKS):
            if high - low <= 1:
                return
            middle = (low + high) // 2
            if self._goal.is_fast(self._score(middle)):
                low = middle
            else:
                high = middle
