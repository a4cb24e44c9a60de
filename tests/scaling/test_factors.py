"""The factors with the least noise."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.scaling.factors import ChannelFactors, RoundedTensor, RoundedWeights


def tensor(high: list[float], low: list[float], gains: list[float]) -> RoundedTensor:
    return RoundedTensor(np.arange(len(high)), np.array(low), np.array(high), np.array(gains))


def test_the_slopes_are_those_of_the_noise() -> None:
    rng = np.random.default_rng(3)
    tensors = [
        tensor([3.0, 0.5, 7.0, 1.0], [0.0, 0.5, 1.0, 0.0], [1.0, 0.3, 0.0, 4.0]),
        RoundedTensor(np.array([1, 1, 3]), np.zeros(3), np.array([2.0, 1.0, 5.0]), np.ones(3)),
    ]
    peaks = rng.uniform(0.1, 2.0, (5, 4))
    peaks[2] = 0.0  # An output that nothing reaches.
    weights = [RoundedWeights(np.array([0, 1, 2, 3]), peaks, rng.uniform(0.5, 2.0, 4), rng.uniform(0.1, 1.0, 5))]
    found = ChannelFactors(tensors, weights, np.ones(4, bool))
    logs, step = rng.normal(0.0, 0.5, 4), 1e-3
    slopes = found._noise(logs)[1]
    for index in range(4):
        beside = [found._noise(logs + sign * step * np.eye(4)[index])[0] for sign in (1, -1)]
        assert slopes[index] == pytest.approx((beside[0] - beside[1]) / (2 * step), rel=1e-2, abs=1e-9)


def test_a_channel_that_reaches_far_and_counts_as_the_others_is_divided() -> None:
    found = ChannelFactors([tensor([64.0, 1.0, 1.0, 1.0], [0.0] * 4, [1.0] * 4)], [], np.ones(4, bool))
    ratio = found.factors[0] / found.factors[1:]
    # With each channel filling the range the noise is 64² + 3 steps; with one step for all it is 4 · 64².
    assert (ratio > 8.0).all()
    assert found.before / found.after == pytest.approx(4 * 64**2 / (64**2 + 3), rel=0.05)


def test_weights_keep_a_channel_from_being_divided_as_far() -> None:
    layers = [RoundedWeights(np.arange(4), np.ones((3, 4)), np.full(4, 3000.0), np.ones(3))]
    alone, both = (
        ChannelFactors([tensor([64.0, 1.0, 1.0, 1.0], [0.0] * 4, [1.0] * 4)], rest, np.ones(4, bool)).factors
        for rest in ([], layers)
    )
    assert 1.0 <= both[0] / both[1] < 0.5 * alone[0] / alone[1]


def test_what_may_not_change_keeps_its_factor_of_one() -> None:
    free = np.array([True, False, True, True])
    found = ChannelFactors([tensor([64.0, 1.0, 0.1, 1.0], [0.0] * 4, [1.0] * 4)], [], free)
    assert found.factors[1] == 1.0
    assert found.factors[0] > 8.0
    assert found.after < found.before
