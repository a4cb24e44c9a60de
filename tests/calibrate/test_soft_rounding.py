"""The relaxation of rounding: shares, slopes, hardening."""

from __future__ import annotations

import numpy as np
import pytest

from qcompile.calibrate.soft_rounding import (
    Adam,
    SoftIntegers,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    rectified_sigmoid_slope,
)


def test_the_share_is_half_at_zero_symmetric_and_reaches_both_ends() -> None:
    x = np.linspace(-6, 6, 101)
    h = rectified_sigmoid(x)
    assert h[50] == pytest.approx(0.5)
    np.testing.assert_allclose(h + h[::-1], 1.0)
    assert np.all(np.diff(h) >= 0)
    assert h[0] == 0.0
    assert h[-1] == 1.0


def test_the_slope_is_that_of_the_share() -> None:
    x = np.linspace(-4, 4, 400)
    numeric = (rectified_sigmoid(x + 1e-6) - rectified_sigmoid(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(rectified_sigmoid_slope(x), numeric, atol=1e-6)


def test_the_inverse_gives_back_the_share() -> None:
    share = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(rectified_sigmoid(inverse_rectified_sigmoid(share)), share)


def test_untouched_choices_harden_to_the_integers_given() -> None:
    integers = np.array([3.0, 3.0, -127.0, 127.0, 0.0])
    choice = SoftIntegers(integers, np.array([3.4, 2.7, -127.6, 127.9, 0.0]))
    np.testing.assert_array_equal(choice.hard(), integers)
    assert np.all(np.abs(choice.soft(1.0) - integers) <= 0.5)
    np.testing.assert_allclose(choice.soft(1.0)[:2], [3.4, 2.7])
    np.testing.assert_allclose(choice.soft(1000.0), integers)


def test_the_other_candidate_lies_towards_the_real_weight_and_within_the_range() -> None:
    integers = np.array([3.0, 3.0, -127.0, 127.0])
    choice = SoftIntegers(integers, np.array([3.4, 2.7, -130.0, 130.0]))
    choice.choice = -choice.choice
    np.testing.assert_array_equal(choice.hard(), [4.0, 2.0, -126.0, 126.0])


def test_the_slope_of_a_choice_follows_the_temperature() -> None:
    choice = SoftIntegers(np.zeros(5), np.array([0.1, -0.2, 0.3, -0.4, 0.5]))
    for temperature in (1.0, 2.5):
        start = choice.choice.copy()
        choice.choice = start + 1e-6
        above = choice.soft(temperature)
        choice.choice = start - 1e-6
        below = choice.soft(temperature)
        choice.choice = start
        np.testing.assert_allclose(choice.slope(temperature), (above - below) / 2e-6, atol=1e-5)


def test_adam_takes_its_rate_as_first_step_whatever_the_gradient() -> None:
    for size in (1e-8, 1.0, 1e8):
        np.testing.assert_allclose(Adam(0.5).step(np.array([size, -size])), [-0.5, 0.5], rtol=1e-3)


def test_adam_finds_the_bottom_of_a_valley() -> None:
    adam, x = Adam(0.1), np.array([3.0, -2.0])
    for step in range(400):
        x = x + adam.step(2 * np.array([1.0, 100.0]) * (x - 1.0), 1 - step / 400)
    np.testing.assert_allclose(x, 1.0, atol=1e-2)
