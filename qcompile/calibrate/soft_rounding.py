"""Rounding as something to descend on: each weight lies between two integers, and hardens towards one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STRETCH = 1.2
"""Width of the sigmoid's image before it is cut to [0, 1], so that a share can really become 0 or 1."""

_EDGE = 0.02
"""How near to a candidate a share may begin: at 0 or 1 it could never move."""

_NEARER = 1e-3
"""By how much it is nearer to the integer it has now."""

_DECAYS = 0.9, 0.999
_TINY = 1e-12


def rectified_sigmoid(x: Array) -> Array:
    """Return the share of the way to the upper integer.

    Formula:
        h(x) = min(1, max(0, STRETCH · σ(x) − (STRETCH − 1)/2)), so h(0) = ½ and h(−x) = 1 − h(x)

    Args:
        x: dimensionless.

    Source:
        Nagel et al., "Up or down? Adaptive rounding for post-training quantization", 2020, eq. 23.
    """
    return np.asarray(np.clip(STRETCH * _sigmoid(x) - (STRETCH - 1.0) / 2.0, 0.0, 1.0))


def rectified_sigmoid_slope(x: Array) -> Array:
    """Return h'(x), 0 where h is cut.

    Formula:
        h'(x) = STRETCH · σ(x)·(1 − σ(x))
    """
    sigmoid = _sigmoid(x)
    share = STRETCH * sigmoid - (STRETCH - 1.0) / 2.0
    return np.where((share > 0.0) & (share < 1.0), STRETCH * sigmoid * (1.0 - sigmoid), 0.0)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def inverse_rectified_sigmoid(share: Array) -> Array:
    """Return x with h(x) = share, for shares strictly between 0 and 1."""
    sigmoid = (share + (STRETCH - 1.0) / 2.0) / STRETCH
    return np.asarray(np.log(sigmoid / (1.0 - sigmoid)))


class SoftIntegers:
    """Integers under choice: each may stay, or go one step towards the real weight it stands for.

    Formula:
        z = lower + h(τ·v), τ ≥ 1 rising with time; hardened: z = lower + (v ≥ 0)

    Args:
        integers: now, LSB, any shape.
        real: what they stand for, LSB; tells on which side the other candidate lies.
        qmax: largest magnitude allowed, LSB.

    Each begins where the real weight lies between its candidates, on the side of the integer it has now.

    Attributes:
        choice: v, dimensionless; what is descended on.
    """

    def __init__(self, integers: Array, real: Array, *, qmax: int = 127) -> None:
        below = (real < integers) & (integers > -qmax) | (integers >= qmax)
        self.lower = integers - below
        share = np.clip(real - self.lower, _EDGE, 1.0 - _EDGE)
        start = np.where(below, np.maximum(share, 0.5 + _NEARER), np.minimum(share, 0.5 - _NEARER))
        self.choice = inverse_rectified_sigmoid(start)

    def soft(self, temperature: float) -> Array:
        """Return z at a temperature τ, LSB, not whole."""
        return np.asarray(self.lower + rectified_sigmoid(temperature * self.choice))

    def slope(self, temperature: float) -> Array:
        """Return ∂z/∂v at a temperature τ."""
        return np.asarray(temperature * rectified_sigmoid_slope(temperature * self.choice))

    def hard(self) -> Array:
        """Return the integers chosen, LSB."""
        return np.asarray(self.lower + (self.choice >= 0.0))


@dataclass
class Adam:
    """Descends on one array.

    Args:
        rate: of a step, units of the array.

    Source:
        Kingma and Ba, "Adam: A method for stochastic optimization", 2015, algorithm 1.
    """

    rate: float
    _count: int = 0
    _moments: list[Array] = field(default_factory=list)

    def step(self, gradient: Array, share: float = 1.0) -> Array:
        """Return what to add to the array.

        Args:
            gradient: of the loss with respect to the array.
            share: of the rate that applies now.
        """
        if not self._moments:
            self._moments = [np.zeros_like(gradient), np.zeros_like(gradient)]
        self._count += 1
        first, second = self._moments
        first += (1 - _DECAYS[0]) * (gradient - first)
        second += (1 - _DECAYS[1]) * (gradient**2 - second)
        mean, power = first / (1 - _DECAYS[0] ** self._count), second / (1 - _DECAYS[1] ** self._count)
        return np.asarray(-share * self.rate * mean / (np.sqrt(power) + _TINY))
