"""By how much what a network computes misses what it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LIMIT_DB = 200.0
"""Ratio at which decibels end, where there is no noise, or no signal."""


def deviation_power(expected: Array, actual: Array) -> tuple[float, float]:
    """Return the power of a signal and of what another array deviates from it.

    Formula:
        Σ e², Σ (a − e)²

    Args:
        expected: signal; what is not finite in it does not count: a mask of −inf is no signal.
        actual: the same shape; what is not finite in it counts as a deviation of twice the signal, or of its largest
            value where it is 0.

    Raises:
        ValueError: the shapes differ.
    """
    e, a = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if e.shape != a.shape:
        raise ValueError(f"shapes differ: {e.shape} and {a.shape}")
    if not (np.isfinite(e).all() and np.isfinite(a).all()):
        known = np.isfinite(e)
        e, a = np.where(known, e, 0.0), np.where(known, a, 0.0)
        # A zero has no twice itself: the largest of the signal stands for it.
        peak = np.abs(e).max(initial=0.0) or 1.0
        a = np.where(np.isfinite(a), a, np.where(e != 0.0, -e, peak))
    return float(np.square(e).sum()), float(np.square(a - e).sum())


def decibels(signal: float, noise: float) -> float:
    """Return 10·log₁₀(signal / noise), within ±200 dB."""
    if noise <= 0.0:
        return LIMIT_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -LIMIT_DB, LIMIT_DB))


class NoisePower:
    """Sums of the powers of a signal and of its noise, over any number of arrays."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def add(self, expected: Array, actual: Array) -> None:
        """Add one array; see `deviation_power`."""
        self.add_powers(deviation_power(expected, actual))

    def add_powers(self, powers: tuple[float, float]) -> None:
        """Add what `deviation_power` gave for one array."""
        self.signal += powers[0]
        self.noise += powers[1]

    @property
    def db(self) -> float:
        """The ratio of both, dB; see `decibels`."""
        return decibels(self.signal, self.noise)
