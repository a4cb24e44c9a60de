"""The search for accuracy in the report: what was tried, the Pareto front, the most sensitive nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompile.search.result import Attempt, SearchResult
    from qcompile.search.sensitivity import Sensitivity

_LEFT, _WIDTH, _HEIGHT = 44.0, 900.0, 220.0
_MOST_NODES = 15
_CEILING_DB = 80.0
"""Candidates better than this are drawn here: nobody can tell them from float."""


@dataclass(frozen=True)
class Point:
    """A candidate in the chart.

    Args:
        x: place from the left, pixels.
        y: place from the top, pixels.
        attempt: what it stands for.
        chosen: whether it is the result.
    """

    x: float
    y: float
    attempt: Attempt
    chosen: bool


@dataclass(frozen=True)
class Tick:
    """A labelled line of the chart.

    Args:
        place: from the left or from the top, pixels.
        label: what it stands for.
    """

    place: float
    label: str


@dataclass(frozen=True)
class SearchSection:
    """What the template shows.

    Args:
        result: of the search.
        points: every candidate.
        front: corners of the Pareto front, "x,y x,y …".
        across: lines for decibels.
        along: marks for milliseconds.
        sensitive: the most harmful nodes, each with the length of its bar, 0 to 1.
        left: of the chart, pixels.
        right: of the chart, pixels.
        height: of the chart, pixels.
    """

    result: SearchResult
    points: list[Point]
    front: str
    across: list[Tick]
    along: list[Tick]
    sensitive: list[tuple[Sensitivity, float]]
    left: float
    right: float
    height: float


def search_section(result: SearchResult | None) -> SearchSection | None:
    """Return what the report shows of a search; None where there was none.

    Args:
        result: of the search.
    """
    if result is None:
        return None
    scores = [attempt.score for attempt in result.attempts]
    longest = 1.05 * max(score.ms for score in scores) or 1.0
    low = min(0.0, *(score.sqnr_db for score in scores))
    top = max(30.0, 1.05 * max(min(score.sqnr_db, _CEILING_DB) for score in scores))

    def x(ms: float) -> float:
        return round(_LEFT + ms / longest * _WIDTH, 1)

    def y(db: float) -> float:
        return round(_HEIGHT - (min(db, _CEILING_DB) - low) / (top - low) * _HEIGHT, 1)

    def point(attempt: Attempt) -> Point:
        return Point(x(attempt.score.ms), y(attempt.score.sqnr_db), attempt, attempt.score == result.score)

    front = " ".join(f"{x(a.score.ms)},{y(a.score.sqnr_db)}" for a in result.front())
    step = 10 if top - low <= 80 else 40
    across = [Tick(y(db), f"{db} dB") for db in range(int(low // step) * step, int(top) + 1, step) if db >= low]
    along = [Tick(x(longest * part / 5), f"{longest * part / 5:.3g} ms") for part in range(1, 5)]
    return SearchSection(
        result, [point(a) for a in result.attempts], front, across, along, _bars(result),
        _LEFT, _LEFT + _WIDTH, _HEIGHT,
    )  # fmt: skip


def _bars(result: SearchResult) -> list[tuple[Sensitivity, float]]:
    """Return the most harmful nodes with the length of their bars: the longer, the more noise."""
    chosen = result.sensitivities[:_MOST_NODES]
    if not chosen:
        return []
    worst, best = chosen[0].sqnr_db, max(chosen[-1].sqnr_db, chosen[0].sqnr_db + 1.0)
    return [(row, 0.05 + 0.95 * (best - row.sqnr_db) / (best - worst)) for row in chosen]
