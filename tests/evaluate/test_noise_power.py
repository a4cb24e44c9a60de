"""Powers of signal and noise, and their ratio."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qcompile.quant.noise_power import LIMIT_DB, NoisePower, decibels, deviation_power


def test_known_noise() -> None:
    r = np.array([3.0, 4.0])
    assert decibels(*deviation_power(r, r + np.array([0.3, -0.4]))) == pytest.approx(20.0)
    assert decibels(*deviation_power(r, r)) == LIMIT_DB
    assert decibels(*deviation_power(np.zeros(2), r)) == -LIMIT_DB
    assert decibels(*deviation_power(np.zeros(2), np.zeros(2))) == LIMIT_DB
    with pytest.raises(ValueError, match="shapes differ"):
        deviation_power(r, r[:1])


def test_rounding_matches_theory() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 200_000)
    power = NoisePower()
    for part in np.split(x, 4):
        power.add(part, np.rint(part * 127) / 127)
    assert power.db == pytest.approx(20 * math.log10(2 * 127), abs=0.1)


def test_integers_do_not_overflow() -> None:
    assert deviation_power(np.array([-128], np.int8), np.array([127], np.int8)) == (128.0**2, 255.0**2)


def test_what_is_not_finite() -> None:
    """Where the signal has no number nothing counts; where the answer has none all is lost."""
    nothing, lost = np.array([np.nan, -np.inf, np.inf]), np.array([2.0, 2.0, 2.0])
    assert deviation_power(nothing, lost) == (0.0, 0.0)
    assert deviation_power(nothing, nothing) == (0.0, 0.0)
    assert deviation_power(lost, nothing) == (12.0, 48.0)
    zeros = np.array([0.0, -3.0])
    assert deviation_power(zeros, np.array([np.nan, -3.0])) == (9.0, 9.0)
    assert deviation_power(np.zeros(2), np.array([np.inf, 0.0])) == (0.0, 1.0)
    power = NoisePower()
    power.add(np.array([1.0, 2.0]), np.array([1.0, np.nan]))
    assert power.db == pytest.approx(10 * math.log10(5 / 16))
