"""The chart of candidates: near ones are told apart, and all lie within it."""

from __future__ import annotations

import pytest

from qcompile.report.search_section import search_section
from qcompile.search.goal import Goal
from qcompile.search.recipe import Recipe
from qcompile.search.result import Attempt, SearchResult
from qcompile.search.score import Score


def result(points: list[tuple[float, float]]) -> SearchResult:
    scores = [Score(db, db, 0.01, None, ms, 1.0) for ms, db in points]
    attempts = tuple(Attempt(f"candidate {i}", "checked", score) for i, score in enumerate(scores))
    return SearchResult(Goal(min_sqnr=30.0), Recipe(()), scores[0], True, "done", attempts, (), (), 12, 4)


@pytest.mark.parametrize(
    "points",
    [
        [(0.065, 43.0), (0.0655, 45.4), (0.066, 40.1)],
        [(0.1, -200.0), (90.0, 200.0)],
        [(1.0, 30.0)],
        [(0.0, 0.0), (0.0, 0.0)],
    ],
)
def test_all_candidates_lie_within_the_chart(points: list[tuple[float, float]]) -> None:
    section = search_section(result(points))
    assert section is not None
    for point in section.points:
        assert section.left <= point.x <= section.right
        assert 0 <= point.y <= section.height
    assert 1 <= len(section.across) <= 9
    assert all(0 <= tick.place <= section.height for tick in section.across)
    assert all("-" not in tick.label for tick in section.along) or points[0][0] == 0.0


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        ((1.94, 2.01), ["1.90 ms", "1.95 ms", "2.00 ms", "2.05 ms"]),
        ((0.0651, 0.0662), ["0.064 ms", "0.065 ms", "0.066 ms", "0.067 ms"]),
        ((12.0, 95.0), ["20 ms", "40 ms", "60 ms", "80 ms", "100 ms"]),
    ],
)
def test_times_on_the_axis_are_round_and_as_far_apart_as_they_say(
    times: tuple[float, float], labels: list[str]
) -> None:
    section = search_section(result([(times[0], 30.0), (times[1], 40.0)]))
    assert section is not None
    shown = [tick.label for tick in section.along]
    assert shown == labels
    places, said = [tick.place for tick in section.along], [float(label.split()[0]) for label in shown]
    scale = (places[-1] - places[0]) / (said[-1] - said[0])
    assert all(abs(p - places[0] - (v - said[0]) * scale) < 0.2 for p, v in zip(places, said, strict=True))


def test_candidates_that_differ_by_little_are_far_apart() -> None:
    section = search_section(result([(0.065, 43.0), (0.066, 45.4)]))
    assert section is not None
    first, second = section.points
    assert second.x - first.x > 0.2 * (section.right - section.left)
    assert first.y - second.y > 0.2 * section.height


def test_the_goal_is_a_line_where_it_lies_within_the_chart() -> None:
    near, far = (search_section(result([(1.0, low), (2.0, high)])) for low, high in ((20.0, 32.0), (50.0, 60.0)))
    assert near is not None
    assert near.goal is not None
    assert near.goal.label == "goal 30 dB"
    assert near.points[1].y < near.goal.place < near.points[0].y
    assert far is not None
    assert far.goal is None
