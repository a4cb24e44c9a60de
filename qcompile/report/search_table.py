"""What a search tried, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcompile.report.columns import columns, facts, show

if TYPE_CHECKING:
    from qcompile.search.result import Attempt, SearchResult


def print_search(result: SearchResult) -> None:
    """Print every candidate of a search, in order, and what was not tried.

    Args:
        result: of the search.
    """
    lost = result.metric["name"] if result.metric is not None else "drop"
    numbers = ("SQNR", lost, "int8", "ms", "s")
    table = columns("candidate", "", *numbers, right=numbers)
    for attempt in result.attempts:
        table.add_row(attempt.title, attempt.outcome, *_cells(attempt, measured=result.metric is not None))
    show(table)
    facts([("not tried:", text) for text in result.left_out], gap=1)
    print()


def _cells(attempt: Attempt, *, measured: bool) -> tuple[str, ...]:
    """Return the numbers of a row; those of labelled samples only where these were asked."""
    score = attempt.score
    lost = f"{100 * score.drop:.2f} %"
    if measured:
        lost = "-" if score.metric is None else f"{score.metric:.4f}"
    return f"{score.sqnr_db:.1f} dB", lost, f"{score.int8_share:.1%}", f"{score.ms:.3f}", f"{score.seconds:.0f}"
