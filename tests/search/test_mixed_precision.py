from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_graphs import candidates, heads, recipe

from qcompile.search.goal import Goal
from qcompile.search.ladder import Ladder
from qcompile.search.leaving import Kept
from qcompile.search.mixed_precision import MOST_CHECKS, PrefixSearch
from qcompile.search.plan import Step
from qcompile.search.result import SearchResult
from qcompile.search.score import Score


def searched(goal: Goal, renamed: bool = False, jobs: int = 1) -> SearchResult:
    return Ladder(candidates(heads(renamed), jobs=jobs), goal).climb(recipe(), (15, 5), means=False)


def test_the_weak_spot_alone_goes_to_float():
    found = searched(Goal(min_sqnr=25))
    assert found.met
    assert found.attempts[0].score.sqnr_db < 10 < 25 <= found.score.sqnr_db
    assert "both" in found.kept_int16
    assert not {"h", "t"} & set(found.kept_float)
    assert found.score.int8_share > 0.9


def test_names_do_not_matter():
    assert searched(Goal(min_sqnr=25)).score == searched(Goal(min_sqnr=25), renamed=True).score


def test_the_number_of_processes_does_not_matter():
    one, two = searched(Goal(min_sqnr=40)), searched(Goal(min_sqnr=40), jobs=2)
    assert (one.attempts, one.kept_float, one.recipe) == (two.attempts, two.kept_float, two.recipe)


def test_what_int8_cannot_reach_ends_in_float():
    found = searched(Goal(min_sqnr=150))
    assert found.met
    assert found.score.int8_share == 0.0


def test_a_time_budget_is_respected_and_used():
    plain, accurate = searched(Goal(min_sqnr=-100)).score, searched(Goal(min_sqnr=150)).score
    budget = (plain.ms + accurate.ms) / 2
    found = searched(Goal(max_ms=budget))
    assert found.met
    assert found.score.ms <= budget
    assert found.score.sqnr_db > plain.sqnr_db + 10
    both = searched(Goal(min_sqnr=150, max_ms=budget))
    assert not both.met
    assert both.score.ms <= budget
    assert "cannot be met within the time" in both.reason


def test_a_time_that_nothing_reaches_is_said_so():
    found = searched(Goal(min_sqnr=20, max_ms=1e-6))
    assert not found.met
    assert "out of reach: the fastest candidate takes" in found.reason
    assert found.kept_float == ()


def test_the_front_is_what_nothing_beats():
    found = searched(Goal(min_sqnr=60))
    front = [a.score for a in found.front()]
    assert len(front) > 1
    assert all(a.ms <= b.ms and a.sqnr_db < b.sqnr_db for a, b in pairwise(front))
    beaten = [a.score for a in found.attempts if a.score not in front]
    assert all(any(f.ms <= b.ms and f.sqnr_db >= b.sqnr_db for f in front) for b in beaten)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    noises=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=60),
    bias=st.floats(-6, 6),
    wanted=st.floats(0, 60),
)
def test_the_prefix_search_ends_with_an_accurate_prefix_after_few_measurements(
    noises: list[float], bias: float, wanted: float
):
    left = [sum(noises[i:]) for i in range(len(noises))] + [0.0]
    steps = [Step(Kept(tuple(map(str, range(i)))), noise) for i, noise in enumerate(left)]
    scores = [score_of(200.0 if n == 0 else -decibel(n) + bias, i) for i, n in enumerate(left)]
    search = PrefixSearch(steps, Goal(min_sqnr=wanted), scores.__getitem__)
    chosen = search.run()
    assert chosen.score.sqnr_db >= wanted
    assert len(search.measured) <= MOST_CHECKS
    if len(search.measured) < MOST_CHECKS and chosen.index:
        assert scores[chosen.index - 1].sqnr_db < wanted


def decibel(noise: float) -> float:
    return 10 * math.log10(noise)


def score_of(db: float, ms: float) -> Score:
    return Score(min(db, 200.0), min(db, 200.0), 1.0, None, ms, 1.0)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_goal_out_of_reach_takes_the_most_accurate_prefix(count: int):
    steps = [Step(Kept(), 1.0)] * count
    search = PrefixSearch(steps, Goal(min_sqnr=50), lambda i: score_of(float(i % 7), i))
    chosen = search.run()
    assert chosen.score.sqnr_db == max(c.score.sqnr_db for c in search.measured)


def test_noise_that_sinks_less_than_predicted_takes_longer_strides():
    steps = [Step(tuple(map(str, range(i))), 10 ** (-i / 10)) for i in range(101)]
    # Each dB that the plan predicts is worth half a one.
    search = PrefixSearch(steps, Goal(min_sqnr=24.2), lambda i: score_of(i / 2, 1.0))
    chosen = search.run()
    assert chosen.index == 49
    assert [c.index for c in search.measured] == [0, 25, 49]


def test_prefixes_that_save_no_time_are_not_measured():
    steps = [Step(tuple(map(str, range(i))), 1.0 / (1 + i)) for i in range(100)]
    alike, apart = (
        PrefixSearch(steps, Goal(min_sqnr=50), lambda i, ms=ms: score_of(float(i), 100.0 + ms * i)) for ms in (0.01, 10)
    )
    assert alike.run().score.sqnr_db >= 50
    assert apart.run().index == 50
    assert len(alike.measured) < len(apart.measured)
