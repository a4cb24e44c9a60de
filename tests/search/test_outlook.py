"""How long a search may still take, from what its candidates took so far."""

from __future__ import annotations

import pytest

from qcompile import progress
from qcompile.progress import ProgressReporter
from qcompile.search import outlook
from qcompile.search.outlook import Outlook


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outlook.time, "monotonic", lambda: clock.now)
    return clock


def test_what_is_left_takes_as_long_as_what_was_like_it(clock: Clock) -> None:
    reports: list[tuple[int, int, str]] = []
    seen = Outlook(lambda *report: reports.append(report), quick=4, slow=2)
    assert reports == [(0, 0, outlook.WHAT)]
    clock.now += 30
    seen.measured("a", 30.0, slow=True)
    # Nothing quick is known yet: it counts as slow.
    assert reports[-1] == (30, 30 + 4 * 30 + 30, outlook.WHAT)
    clock.now += 2
    seen.measured("b", 2.0, slow=False)
    assert reports[-1][:2] == (32, 32 + 3 * 2 + 30)
    seen.measured("b", 50.0, slow=False)
    assert len(reports) == 3, "a candidate counts once"
    seen.narrow(quick=1, slow=5)
    assert reports[-1][:2] == (32, 32 + 2 + 30), "there are no more than before"
    seen.narrow(quick=0, slow=0)
    assert reports[-1][:2] == (32, 32)


def test_measurements_of_an_earlier_run_tell_how_long_others_take(clock: Clock) -> None:
    reports: list[tuple[int, int, str]] = []
    seen = Outlook(lambda *report: reports.append(report), quick=0, slow=3)
    seen.measured("a", 40.0, slow=True)
    assert reports[1:] == [(0, 80, outlook.WHAT)]


def test_the_time_left_is_shown_from_the_first_candidate_on(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    seen = Outlook(ProgressReporter(terminal=False), quick=0, slow=3)
    clock.now += 40
    seen.measured("a", 40.0, slow=True)
    assert capsys.readouterr().err == "search, seconds at most: 40/120 (40 s, 80 s left)\n"
