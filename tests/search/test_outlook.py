"""How long a search may still take, from what its candidates took so far."""

from __future__ import annotations

import pytest
from search_graphs import candidates, heads, recipe

from qcompile import progress
from qcompile.passmgr import PassRegistry
from qcompile.progress import ProgressReporter
from qcompile.search import outlook
from qcompile.search.candidates import Candidates
from qcompile.search.goal import Goal
from qcompile.search.ladder import RUNGS, Ladder
from qcompile.search.outlook import QUICK, Outlook
from qcompile.search.recipe import Recipe
from qcompile.search.score import Score

TIMES = {QUICK: (24.6, 17.7, 22.6, 25.6, 6.0, 19.3, 21.2), "correct-bias": (41.0,), "round-weights": (143.5, 181.3)}
"""Seconds of candidates as a detector may need: most as measured on a busy machine, of correct-bias an assumption."""


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outlook.time, "monotonic", lambda: clock.now)
    return clock


def test_what_is_ahead_takes_as_long_as_what_was_like_it(clock: Clock) -> None:
    reports: list[tuple[int, int, str]] = []
    seen = Outlook(lambda *report: reports.append(report))
    seen.expect({QUICK: 4, "slow": 2})
    assert reports == [(0, 0, outlook.WHAT)]
    clock.now += 30
    seen.measured("a", 30.0, "slow")
    # Nothing quick is known yet: it counts for a quarter.
    assert reports[-1] == (30, 30 + 4 * 7.5 + 30, outlook.WHAT)
    clock.now += 2
    seen.measured("b", 2.0, QUICK)
    assert reports[-1][:2] == (32, 32 + 3 * 2 + 30)
    seen.measured("b", 50.0, QUICK)
    assert len(reports) == 3, "a candidate counts once"
    seen.skip(QUICK)
    seen.measured("c", 4.0, QUICK)
    seen.measured("d", 90.0, QUICK)
    assert reports[-1][:2] == (32, 32 + 30)
    seen.expect({"slow": 1, "slower": 1, QUICK: 1})
    assert reports[-1][:2] == (32, 32 + 30 + 30 + 4), "one that took unusually long says little"
    seen.expect({})
    assert reports[-1][:2] == (32, 32)


def test_measurements_of_an_earlier_run_tell_how_long_others_take(clock: Clock) -> None:
    reports: list[tuple[int, int, str]] = []
    seen = Outlook(lambda *report: reports.append(report))
    seen.expect({"slow": 3})
    seen.measured("a", 40.0, "slow")
    assert reports[1:] == [(0, 80, outlook.WHAT)]


def test_the_time_left_is_shown_from_the_first_candidate_on(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    seen = Outlook(ProgressReporter(terminal=False))
    seen.expect({"slow": 3})
    clock.now += 40
    seen.measured("a", 40.0, "slow")
    assert capsys.readouterr().err == f"{outlook.WHAT}: 40/120 (40 s, 80 s left)\n"


@pytest.mark.parametrize(("db", "factor"), [(60.0, 1.6), (35.0, 2.2)])
def test_the_estimate_of_a_whole_search_is_near(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, db: float, factor: float
) -> None:
    """With uneven times the total foreseen is near from the first candidate on; less so if the goal is met early."""
    found, real = [], Candidates.score
    turn: dict[str, int] = {}
    known: dict[str, Score] = {}

    def timed(self: Candidates, candidate: Recipe, what: str) -> Score:
        kind = next((name for name in ("round-weights", "correct-bias") if candidate.has(name)), QUICK)
        if candidate.text not in known:
            score = real(self, candidate, what)
            index = turn[kind] = turn.get(kind, -1) + 1
            seconds = TIMES[kind][index % len(TIMES[kind])]
            clock.now += seconds
            known[candidate.text] = Score(**{**score.to_json(), "seconds": seconds})
        return known[candidate.text]

    monkeypatch.setattr(Candidates, "score", timed)
    monkeypatch.setattr(Candidates, "estimate", timed)
    usual = recipe().inserted(PassRegistry().get("round-weights")(), "fuse-requantize")
    made = candidates(heads())
    monkeypatch.setattr(made, "progress", lambda *report: found.append(report[:2]))
    started = clock.now
    result = Ladder(made, Goal(min_sqnr=db), tuple(r for r in RUNGS if r.name != "reconstruct-blocks")).climb(
        usual, (15, 5)
    )
    timed(made, result.recipe, "with all samples")
    took = clock.now - started
    foreseen = [total for spent, total in found if spent]
    assert len(foreseen) > 4
    assert all(took / factor < total < took * factor for total in foreseen)
