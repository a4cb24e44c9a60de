"""Why a search stopped, in words for people who are no experts."""

from __future__ import annotations

from collections.abc import Sequence

from qcompile.search.goal import Goal
from qcompile.search.leaving import Kept
from qcompile.search.plan import Plan
from qcompile.search.result import Attempt
from qcompile.search.score import Score

_SHOWN = 3
"""Nodes named of each kind."""


def reason(goal: Goal, score: Score, whole: Score, kept: Kept, attempts: Sequence[Attempt], plan: Plan | None) -> str:
    """Return why a search stopped, which nodes left int8 and what that costs.

    Args:
        goal: what was wanted.
        score: of the result.
        whole: of the best candidate in int8 throughout.
        kept: nodes that left int8.
        attempts: everything measured.
        plan: in which order nodes leave int8; None where the search did not come so far.
    """
    price = _price(score, whole) if kept else ""
    if not goal.is_fast(score):
        fastest = min(a.score.ms for a in attempts)
        return f"the goal, {goal.text()}, is out of reach: the fastest candidate takes {fastest:.3f} ms"
    if not goal.has_accuracy:
        by = f"; {nodes_text(kept, plan)} left int8{price}" if kept else ""
        return f"this is the most accurate within {goal.max_ms:g} ms: {score.text()}{by}"
    if goal.is_accurate(score):
        by = f" with {nodes_text(kept, plan)}" if kept else ""
        return f"the goal, {goal.text()}, is met{by}: {score.text()}{price}"
    missing = f"{goal.shortfall_db(score):.1f} dB are missing at {score.text()}"
    limit = "within the time" if goal.max_ms is not None else "at all"
    return f"the goal, {goal.text()}, cannot be met {limit}; {missing}{_obstacle(goal, attempts, plan)}"


def _price(score: Score, whole: Score) -> str:
    return f"; all in int8, SQNR is {whole.sqnr_db:.1f} dB at {whole.ms:.3f} ms"


def _obstacle(goal: Goal, attempts: Sequence[Attempt], plan: Plan | None) -> str:
    """Return which nodes are to blame, and what it would cost to meet the goal."""
    rows = plan.sensitivities[:_SHOWN] if plan is not None else ()
    blamed = ", ".join(f"{row.op} {row.node} ({row.sqnr_db:.1f} dB alone)" for row in rows)
    text = f"; most noise comes from {blamed}" if blamed else ""
    enough = [a for a in attempts if goal.is_accurate(a.score)]
    if enough:
        cheapest = min(enough, key=lambda a: a.score.ms)
        text += f"; it would take {cheapest.score.ms:.3f} ms with {cheapest.title}"
    return text


def count_text(kept: Kept) -> str:
    """Return how many nodes left int8, in words."""
    return " and ".join(f"{_nodes(len(names))} in {where}" for names, where in _kinds(kept))


def nodes_text(kept: Kept, plan: Plan | None) -> str:
    """Return which nodes left int8, in words."""
    titles = plan.titles if plan is not None else {}
    parts = []
    for names, where in _kinds(kept):
        shown = ", ".join(titles.get(name, name) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts.append(f"{_nodes(len(names))} in {where} ({shown}{more})")
    return " and ".join(parts)


def _kinds(kept: Kept) -> list[tuple[tuple[str, ...], str]]:
    return [(names, where) for names, where in ((kept.wide, "int16"), (kept.real, "float32")) if names]


def _nodes(count: int) -> str:
    return f"{count} node{'s' if count != 1 else ''}"
