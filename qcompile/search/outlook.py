"""How long a search may still take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from statistics import median

from qcompile.progress import Progress

WHAT = "search, seconds as far as foreseen"

QUICK = ""
"""Kind of the candidates without passes that take long."""

_QUICK_SHARE = 0.25
"""Share of the time of the others that such a candidate takes, before the first of them was measured."""


class Outlook:
    """Reports the time spent and the time that the candidates ahead will take, each as long as those like it so far.

    Args:
        report: called with (seconds spent, seconds in all, what).
    """

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._ahead: Counter[str] = Counter()
        self._seconds: dict[str, dict[str, float]] = {}
        self._started = time.monotonic()
        report(0, 0, WHAT)  # from here on whoever shows it counts the seconds

    def expect(self, ahead: Mapping[str, int]) -> None:
        """Tell which candidates are ahead, in place of all that was expected before.

        Args:
            ahead: number of candidates of each kind: QUICK, or the name of a pass that takes long.
        """
        self._ahead = Counter(ahead)
        if self._seconds:
            self._say()

    def skip(self, kind: str) -> None:
        """Tell that a candidate is not needed after all."""
        self._ahead[kind] = max(0, self._ahead[kind] - 1)

    def measured(self, recipe: str, seconds: float, kind: str) -> None:
        """Count a candidate, and report; one that is known already changes nothing.

        Args:
            recipe: pipeline text.
            seconds: that it took, be it in an earlier run.
            kind: as in `expect`.
        """
        known = self._seconds.setdefault(kind, {})
        if recipe in known:
            return
        known[recipe] = seconds
        self.skip(kind)
        self._say()

    def _say(self) -> None:
        spent = time.monotonic() - self._started
        left = sum(count * self._typical(kind) for kind, count in self._ahead.items())
        self._report(round(spent), round(spent + left), WHAT)

    def _typical(self, kind: str) -> float:
        """Return the seconds of a candidate of a kind; of one not met so far by those of the others."""
        if kind in self._seconds:
            return median(self._seconds[kind].values())
        longest = max(median(seconds.values()) for seconds in self._seconds.values())
        return longest * _QUICK_SHARE if kind == QUICK else longest
