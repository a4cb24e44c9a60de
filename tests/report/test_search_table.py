"""The table of a search on the terminal."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from qcompile.report.search_table import print_search
from qcompile.search.goal import Goal
from qcompile.search.recipe import Recipe
from qcompile.search.result import Attempt, SearchResult
from qcompile.search.score import Score

START = Score(20.0, 20.0, 0.021, None, 1.5, 1.0, seconds=31.4)
CHOSEN = Score(31.25, 31.0, 0.001, None, 1.75, 0.913, seconds=2.0)


def result() -> SearchResult:
    attempts = (Attempt("the usual recipe", "start", START), Attempt("3 nodes in int16", "chosen", CHOSEN, 0, 3))
    found = SearchResult(Goal(min_sqnr=30.0), Recipe(()), CHOSEN, True, "done", attempts, (), (), 12, 4)
    return replace(found, left_out=("rounding of weights by block: it brings 2 dB at most",))


def test_every_candidate_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_search(result())
    out = capsys.readouterr().out
    assert re.search(r"^candidate +SQNR +drop +int8 +ms +s$", out, re.M)
    assert re.search(r"^the usual recipe +start +20\.0 dB +2\.10 % +100\.0% +1\.500 +31$", out, re.M)
    assert re.search(r"^3 nodes in int16 +chosen +31\.2 dB +0\.10 % +91\.3% +1\.750 +2$", out, re.M)
    assert re.search(r"^not tried: rounding of weights by block: it brings 2 dB at most$", out, re.M)


def test_labelled_samples_show_their_metric_where_they_were_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found = result()
    asked = replace(found.attempts[0], score=replace(START, metric=0.875))
    print_search(replace(found, attempts=(asked, found.attempts[1]), metric={"name": "top1"}))
    out = capsys.readouterr().out
    assert re.search(r"^candidate +SQNR +top1 ", out, re.M)
    assert re.search(r"^the usual recipe +start +20\.0 dB +0\.8750 ", out, re.M)
    assert re.search(r"^3 nodes in int16 +chosen +31\.2 dB +- ", out, re.M)


def test_seconds_are_no_part_of_what_a_bundle_records() -> None:
    found = result()
    slower = replace(found, attempts=tuple(replace(a, score=replace(a.score, seconds=99.0)) for a in found.attempts))
    assert slower.to_json() == found.to_json()
    assert slower.attempts == found.attempts
