"""How long a search may still take."""

from __future__ import annotations

import time
from statistics import fmean

from qcompile.progress import Progress

WHAT = "search, seconds at most"


class Outlook:
    """Reports the time spent and the time left, at most: as many candidates, each as long as those like it so far.

    Args:
        report: called with (seconds spent, seconds in all, what).
        quick: candidates left at most that take little time.
        slow: the same of those with passes that take long.
    """

    def __init__(self, report: Progress, quick: int, slow: int) -> None:
        self._report = report
        self._left = {False: quick, True: slow}
        self._seconds: dict[bool, dict[str, float]] = {False: {}, True: {}}
        self._started = time.monotonic()
        report(0, 0, WHAT)  # from here on whoever shows it counts the seconds

    def measured(self, recipe: str, seconds: float, *, slow: bool) -> None:
        """Count a candidate, and report; one that is known already changes nothing.

        Args:
            recipe: pipeline text.
            seconds: that it took, be it in an earlier run.
            slow: whether it has passes that take long.
        """
        known = self._seconds[slow]
        if recipe in known:
            return
        known[recipe] = seconds
        self._left[slow] = max(0, self._left[slow] - 1)
        self._say()

    def narrow(self, quick: int, slow: int) -> None:
        """Tell how many candidates are left now; more than before do not count."""
        self._left = {False: min(quick, self._left[False]), True: min(slow, self._left[True])}
        self._say()

    def _say(self) -> None:
        spent = time.monotonic() - self._started
        left = sum(count * self._mean(slow) for slow, count in self._left.items())
        self._report(round(spent), round(spent + left), WHAT)

    def _mean(self, slow: bool) -> float:
        known = self._seconds[slow] or self._seconds[not slow]
        return fmean(known.values()) if known else 0.0
