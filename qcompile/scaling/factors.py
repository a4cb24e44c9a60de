"""The factors for channels that leave least noise at the outputs when tensors and weights are rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LEVELS, _WEIGHT_LEVELS = 255.0, 127.0
_POWER = 12.0
"""Exponent of the norm that stands for a maximum, which has no useful derivative."""

_STEPS, _RATE = 300, 0.05
_SHRINK, _SQUARES = 0.9, 0.99
_FURTHEST = 4.0
"""Natural logarithm of the greatest factor."""

_TINY = 1e-30


@dataclass(frozen=True)
class RoundedTensor:
    """A tensor that is rounded with one step.

    Formula:
        noise = Σ_c g_c · s_c² · step² / 12, step = (max_c high_c / s_c + max_c low_c / s_c) / 255

    Args:
        classes: index of the class of each channel.
        low: how far each channel reaches below zero, real units, not negative.
        high: likewise above.
        gains: g, what noise in all elements of a channel does to the outputs.
    """

    classes: Array
    low: Array
    high: Array
    gains: Array


@dataclass(frozen=True)
class RoundedWeights:
    """Weights that are rounded with a step for each output channel.

    Formula:
        noise = r · Σ_o g_o · step_o² / 12 · Σ_c p_c / s_c², step_o = max_c |w_oc| · s_c / 127

    Args:
        classes: index of the class of each input channel.
        peaks: max |w| over the taps, [outputs, inputs].
        powers: p, mean square of each input channel times the taps.
        gains: g, what noise in all elements of an output does to the outputs of the network, times the share r of
            the noise of weights that rounding them by layer leaves.
    """

    classes: Array
    peaks: Array
    powers: Array
    gains: Array


class ChannelFactors:
    """The factors s of classes of channels, found step by step.

    Args:
        tensors: that are rounded.
        weights: that are.
        free: whether each class may change.

    Attributes:
        factors: s, float64 [classes], by which channels are divided; 1 for classes that may not change.
        before: noise at the outputs, relative to their power, with factors of 1.
        after: with `factors`.

    Source:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015; here of a function that is known exactly.
    """

    def __init__(self, tensors: Sequence[RoundedTensor], weights: Sequence[RoundedWeights], free: Array) -> None:
        self._tensors = tensors
        self._weights = [_Norms.of(item) for item in weights]
        logs = np.zeros(len(free))
        mean, square = np.zeros(len(free)), np.zeros(len(free))
        self.before = self._noise(logs)[0]
        for step in range(_STEPS):
            noise, slopes = self._noise(logs)
            slopes = np.where(free, slopes / max(noise, _TINY), 0.0)
            mean = _SHRINK * mean + (1 - _SHRINK) * slopes
            square = _SQUARES * square + (1 - _SQUARES) * slopes**2
            direction = mean / (1 - _SHRINK ** (step + 1)) / (np.sqrt(square / (1 - _SQUARES ** (step + 1))) + 1e-6)
            rate = _RATE * 0.5 * (1.0 + np.cos(np.pi * step / _STEPS))
            logs = np.clip(logs - rate * direction, -_FURTHEST, _FURTHEST)
        self.after = self._noise(logs)[0]
        self.factors = np.exp(logs)

    def _noise(self, logs: Array) -> tuple[float, Array]:
        """Return the noise, and its derivatives by the logarithms of the factors."""
        noise, slopes = 0.0, np.zeros(len(logs))
        for tensor in self._tensors:
            own = logs[tensor.classes]
            high, by_high = _norm(tensor.high * np.exp(-own))
            low, by_low = _norm(tensor.low * np.exp(-own))
            step = (high + low) / _LEVELS
            parts = tensor.gains * np.exp(2 * own) * (step**2 / 12)
            total = parts.sum()
            noise += total
            through = 2 * total * (high * by_high + low * by_low) / max(high + low, _TINY)
            np.add.at(slopes, tensor.classes, 2 * parts - through)
        for weights in self._weights:
            noise += weights.add_noise(logs, slopes)
        return noise, slopes


@dataclass(frozen=True)
class _Norms:
    """Weights, prepared: p-norms along rows become products with a matrix that is raised to the power once."""

    item: RoundedWeights
    rows: Array
    raised: Array

    @staticmethod
    def of(item: RoundedWeights) -> _Norms:
        rows = np.maximum(item.peaks.max(axis=1), _TINY)
        raised = ((item.peaks / rows[:, None]) ** _POWER).astype(np.float32)
        return _Norms(item, rows, raised)

    def add_noise(self, logs: Array, slopes: Array) -> float:
        """Return the noise of the weights, and add its derivatives."""
        item = self.item
        own = logs[item.classes]
        grown = np.exp(_POWER * own).astype(np.float32)
        norms = np.maximum((self.raised @ grown).astype(np.float64), _TINY)
        steps = item.gains * np.square(self.rows * norms ** (1 / _POWER) / _WEIGHT_LEVELS) / 12
        powers = item.powers * np.exp(-2 * own)
        noise = float(steps.sum() * powers.sum())
        parts = steps / norms
        largest = max(float(parts.max()), _TINY)  # float32 holds ratios, but not noise this small
        shares = (self.raised.T @ (parts / largest).astype(np.float32)).astype(np.float64) * largest * grown
        np.add.at(slopes, item.classes, 2 * powers.sum() * shares - 2 * powers * steps.sum())
        return noise


def _norm(x: Array) -> tuple[float, Array]:
    """Return the p-norm of what is not negative, and the derivatives of its logarithm by those of x."""
    largest = max(float(x.max(initial=0.0)), _TINY)
    raised = (x / largest) ** _POWER
    total = max(float(raised.sum()), _TINY)
    return largest * total ** (1 / _POWER), raised / total
