"""Progress: bars on a terminal, few lines in a log, nothing when quiet."""

from __future__ import annotations

import pytest

from qcompile import progress
from qcompile.progress import ProgressReporter


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_log_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with ProgressReporter(terminal=False) as report:
        for done in range(31):
            report(done, 30, "calibrating")
            clock.now += 1
    assert capsys.readouterr().err.splitlines() == [
        "calibrating: 10/30 (10 s, 20 s left)",
        "calibrating: 20/30 (20 s, 10 s left)",
        "calibrating: 30/30 (30 s)",
    ]


def test_work_that_is_done_once_more_starts_at_zero(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with ProgressReporter(terminal=False) as report:
        for _ in range(2):
            for done in range(13):
                report(done, 12, "rounding")
                clock.now += 1
            clock.now += 100
    assert capsys.readouterr().err.splitlines() == 2 * ["rounding: 10/12 (10 s, 2 s left)", "rounding: 12/12 (12 s)"]
    with ProgressReporter(terminal=True) as report:
        report(4, 4, "rounding")
        report(1, 4, "rounding")
    assert "1/4" in capsys.readouterr().err


def test_work_of_unknown_length(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with ProgressReporter(terminal=False) as report:
        for done in range(13):
            report(done, 0, "calibrating")
            clock.now += 1
    assert capsys.readouterr().err == "calibrating: 10 (10 s)\n"


def test_a_terminal_gets_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter(terminal=True) as report:
        report(1, 4, "calibrating")
        report(4, 4, "calibrating")
        report(2, 2, "linking")
    out, err = capsys.readouterr()
    assert out == ""
    assert "calibrating" in err
    assert "4/4" in err
    assert "linking" in err


def test_a_terminal_that_shows_no_bars_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with ProgressReporter() as report:
        report(4, 4, "calibrating")
    assert capsys.readouterr().err == "calibrating: 4/4 (0 s)\n"


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter(quiet=True, terminal=True) as report:
        report(1, 1, "calibrating")
    assert capsys.readouterr() == ("", "")
