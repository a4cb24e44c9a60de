"""A goal that is met where it was verified, and missed on what is compared at the end."""

from __future__ import annotations

import pytest

from qcompile.search.goal import Goal
from qcompile.search.recipe import Recipe
from qcompile.search.result import SearchResult
from qcompile.search.score import Score


@pytest.mark.parametrize(
    ("goal", "met", "told"),
    [
        (Goal(min_sqnr=60.0), True, True),
        (Goal(min_sqnr=58.0), True, False),
        (Goal(min_sqnr=60.0), False, False),  # the search itself says that it fell short
        (Goal(max_drop=0.005), True, False),
    ],
)
def test_a_goal_met_elsewhere_is_doubted(goal: Goal, met: bool, told: bool) -> None:
    found = SearchResult(goal, Recipe(()), Score(60.3, 60.3, 0.0, None, 1.0, 1.0), met, "done", (), (), (), 12, 4)
    notes = found.doubts(58.1)
    assert bool(notes) == told
    assert all("58.1 dB, less than the goal" in note and "--min-sqnr 62" in note for note in notes)
