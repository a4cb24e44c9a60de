"""Factors between an activation and the weights behind it."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.calibrate.smoothing import best_smoothing


def test_an_outlier_channel_is_worth_smoothing():
    random = np.random.default_rng(0)
    rows, weight = random.normal(size=(200, 32)), random.normal(size=(24, 32))
    rows[:, 5] *= 60
    found = best_smoothing(rows, weight)
    assert found.gain > 4
    assert found.factors.argmax() == 5
    assert np.log(found.factors).mean() == pytest.approx(0, abs=1e-9)


def test_even_channels_are_not():
    random = np.random.default_rng(0)
    found = best_smoothing(random.normal(size=(200, 32)), random.normal(size=(24, 32)))
    assert found.gain < 1.25


def test_dead_channels_keep_a_factor_of_one():
    random = np.random.default_rng(0)
    rows, weight = random.normal(size=(50, 8)), random.normal(size=(4, 8))
    rows[:, 0] *= 100
    rows[:, 2] = 0
    weight[:, 3] = 0
    factors = best_smoothing(rows, weight).factors
    assert factors[2] == factors[3] == 1.0
    assert np.isfinite(factors).all()


def test_zeros_alone_gain_nothing():
    assert best_smoothing(np.zeros((5, 3)), np.ones((2, 3))).gain == 1.0
