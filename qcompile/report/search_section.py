"""The search for accuracy in the report: what was tried, the Pareto front, the most sensitive nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompile.search.result import Attempt, SearchResult
    from qcompile.search.sensitivity import Sensitivity

_LEFT, _WIDTH, _HEIGHT = 44.0, 900.0, 220.0
_MOST_NODES = 15
_MOST_LINES = 8
_MOST_MARKS = 6
_LEAST_MARGIN_DB = 2.0
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
        best: candidates on it.
        across: lines for decibels.
        along: marks for milliseconds.
        goal: line for the SQNR wanted; None where none is, or where it lies outside of the chart.
        sensitive: the most harmful nodes, each with the length of its bar, 0 to 1.
        left: of the chart, pixels.
        right: of the chart, pixels.
        height: of the chart, pixels.
    """

    result: SearchResult
    points: list[Point]
    front: str
    best: list[Attempt]
    across: list[Tick]
    along: list[Tick]
    goal: Tick | None
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
    fastest, slowest = _around([score.ms for score in scores], 0.02 * max(score.ms for score in scores))
    low, top = _around([min(score.sqnr_db, _CEILING_DB) for score in scores], _LEAST_MARGIN_DB)

    def x(ms: float) -> float:
        return round(_LEFT + (ms - fastest) / (slowest - fastest) * _WIDTH, 1)

    def y(db: float) -> float:
        return round(_HEIGHT - (min(db, _CEILING_DB) - low) / (top - low) * _HEIGHT, 1)

    def point(attempt: Attempt) -> Point:
        return Point(x(attempt.score.ms), y(attempt.score.sqnr_db), attempt, attempt.score == result.score)

    front = " ".join(f"{x(a.score.ms)},{y(a.score.sqnr_db)}" for a in result.front())
    step = next(s for s in (1, 2, 5, 10, 20, 40, 100) if (top - low) / s <= _MOST_LINES)
    across = [Tick(y(db), f"{db} dB") for db in range(int(low // step) * step, int(top) + 1, step) if db >= low]
    along = [Tick(x(ms), f"{label} ms") for ms, label in _marks(fastest, slowest)]
    wanted = result.goal.min_sqnr
    goal = Tick(y(wanted), f"goal {wanted:g} dB") if wanted is not None and low <= wanted <= top else None
    return SearchSection(
        result, [point(a) for a in result.attempts], front, result.front(), across, along, goal, _bars(result),
        _LEFT, _LEFT + _WIDTH, _HEIGHT,
    )  # fmt: skip


def _around(values: list[float], margin: float) -> tuple[float, float]:
    """Return bounds that leave some space around values, at least a margin.

    A chart that began at 0 would show candidates that differ by a few percent as one point.
    """
    space = max(0.1 * (max(values) - min(values)), margin) or 1.0
    return min(values) - space, max(values) + space


def _marks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers between two bounds, all as far apart, with as many decimals as tell them apart."""
    least = (high - low) / _MOST_MARKS
    powers = (math.floor(math.log10(least)) + more for more in (0, 0, 0, 1))
    units, power = next((n, power) for n, power in zip((1, 2, 5, 1), powers, strict=True) if least <= n * 10.0**power)
    step, decimals = units * 10.0**power, max(0, -power)
    return [(n * step, f"{n * step:.{decimals}f}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _bars(result: SearchResult) -> list[tuple[Sensitivity, float]]:
    """Return the most harmful nodes with the length of their bars: the longer, the more noise."""
    chosen = result.sensitivities[:_MOST_NODES]
    if not chosen:
        return []
    worst, best = chosen[0].sqnr_db, max(chosen[-1].sqnr_db, chosen[0].sqnr_db + 1.0)
    return [(row, 0.05 + 0.95 * (best - row.sqnr_db) / (best - worst)) for row in chosen]
