from __future__ import annotations

import numpy as np
import pytest
from search_graphs import heads

from qcompile.errors import UsageError
from qcompile.search.drop import (
    classifier_drop,
    expected_disagreement,
    expected_loss,
    is_classifier,
    noise_over_margin,
    signal_drop,
    surely_lost,
)
from qcompile.search.goal import Goal
from qcompile.search.score import Score


@pytest.mark.parametrize("noise", [0.05, 0.7, 5.0])
def test_expected_disagreement_is_what_noise_does_to_exponential_margins(noise: float):
    generator = np.random.default_rng(1)
    scores = np.stack([np.zeros(4000), generator.exponential(2.0, 4000)], axis=1)
    tries = [scores + generator.normal(0, noise, scores.shape) for _ in range(50)]
    counted = np.mean([(t.argmax(axis=1) != scores.argmax(axis=1)).mean() for t in tries])
    assert expected_disagreement(noise_over_margin(scores, noise)) == pytest.approx(counted, rel=0.05)


def test_expected_disagreement_has_its_limits():
    scores = np.array([[1.0, 2.0, 4.0]])
    assert expected_disagreement(noise_over_margin(scores, 0.0)) == 0.0
    assert expected_disagreement(noise_over_margin(scores, 1e9)) == 0.5
    assert expected_disagreement(noise_over_margin(np.zeros((2, 3)), 1.0)) == 0.5


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_the_expected_loss_bounds_what_calibrated_scores_lose(noise: float):
    """Labels are drawn with the probabilities that the scores stand for, two classes."""
    generator = np.random.default_rng(2)
    margins = generator.exponential(2.0, 20000)
    scores = np.stack([np.zeros_like(margins), margins], axis=1)
    right = generator.random(len(margins)) < 1 / (1 + np.exp(-margins))
    lost = []
    for _ in range(40):
        turned = (scores + generator.normal(0, noise, scores.shape)).argmax(axis=1) == 0
        lost.append((turned & right).mean() - (turned & ~right).mean())
    estimate = expected_loss(noise_over_margin(scores, noise))
    assert np.mean(lost) < estimate < 8 * np.mean(lost)
    assert expected_loss(20.0) == 0.5


def test_only_clear_decisions_that_turn_are_surely_lost():
    generator = np.random.default_rng(3)
    scores = [np.array([0.0, m]) for m in generator.exponential(2.0, 16)]
    scores[0], scores[1] = np.array([0.0, 0.01]), np.array([0.0, 5.0])
    unclear, clear = ([s[::-1] if i == n else s for i, s in enumerate(scores)] for n in (0, 1))
    drop, agreement = classifier_drop(scores, unclear)
    assert drop < 0.001
    assert agreement == 15 / 16
    assert classifier_drop(scores, clear)[0] >= surely_lost(1, 16)


def test_a_bound_on_a_rate_has_its_confidence():
    # One wrong in 16: a rate of 1 − 0.95^(1/16) shows at least one in 5 % of all draws.
    assert surely_lost(1, 16) == pytest.approx(1 - 0.95 ** (1 / 16), rel=1e-6)
    assert surely_lost(0, 16) == 0.0
    assert surely_lost(16, 16) == pytest.approx(0.05 ** (1 / 16), rel=1e-6)


def test_noise_that_all_classes_share_turns_no_decision():
    scores = [np.array([1.0, 2.0, 4.0]), np.array([3.0, 0.0, 1.0])]
    assert classifier_drop(scores, [s + 5.0 for s in scores]) == (0.0, 1.0)
    drop, agreement = classifier_drop(scores, [scores[0], scores[0]])
    assert agreement == 0.5
    assert drop > 0.02


def test_drop_of_signals_is_noise_over_signal():
    assert signal_drop(20.0) == pytest.approx(0.01)
    assert signal_drop(-3.0) == 1.0
    assert not is_classifier(heads())


@pytest.mark.parametrize(
    ("goal", "score", "gap"),
    [
        (Goal(min_sqnr=20), Score(15, 15, 0.1, None, 1, 1), 5.0),
        (Goal(max_drop=0.01), Score(15, 15, 0.1, None, 1, 1), 10.0),
        (Goal(max_drop=0.01), Score(15, 15, 0.1, 0.9, 1, 1), 10.0),
        (Goal(max_drop=0.01, min_sqnr=30), Score(15, 15, 0.001, None, 1, 1), 15.0),
        (Goal(max_ms=1), Score(15, 15, 0.1, None, 1, 1), -15.0),
    ],
)
def test_shortfall_is_the_worst_target_missed(goal: Goal, score: Score, gap: float):
    assert goal.shortfall_db(score) == pytest.approx(gap)
    assert goal.is_accurate(score) == (goal.has_accuracy and gap <= 0)


@pytest.mark.parametrize(("text", "share"), [("0.5%", 0.005), ("0.005", 0.005), (0.01, 0.01), (" 2 %", 0.02)])
def test_shares_are_read_as_percentages_or_numbers(text: str | float, share: float):
    from qcompile.config import CompileConfig

    assert CompileConfig().updated({"max_drop": text}, "test").max_drop == pytest.approx(share)


@pytest.mark.parametrize("text", ["half", "150%", "-1", "nan", "%"])
def test_other_shares_are_refused(text: str):
    from qcompile.config import CompileConfig

    with pytest.raises(UsageError, match="max-drop"):
        CompileConfig().updated({"max_drop": text}, "test")
