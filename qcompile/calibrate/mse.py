"""The range with the least squared quantization error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from qcompile.calibrate.distribution import Array, Distribution
from qcompile.calibrate.observer import Observer

_STEPS_PER_OCTAVE = 8
_OCTAVES = 16
_REFINEMENT = 8
_ROUNDS = 2


@dataclass(frozen=True)
class Mse(Observer):
    """Clips where the squared error of clipping and rounding together is least.

    Formula:
        (lo, hi) = argmin Σ_cells count · (x − clip(step · rne(x / step), lo, hi))²,
        step = (hi − lo) / (levels − 1)

    Both ends shrink together from the extremes first, then each by itself. A search goes down in steps of
    an eighth of an octave, stops when the clipped values alone cost more than the best range found (the
    error only grows from there), and is refined around its best.

    Source:
        Sung, Shin and Hwang, "Resiliency of deep neural networks under quantization", 2015 (L2 error);
        Choukroun et al., "Low-bit quantization of neural networks for efficient inference", 2019.
    """

    name: ClassVar[str] = "mse"
    weighs_errors: ClassVar[bool] = True

    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the best range found."""
        return cheapest_range(distribution, _Cost(distribution, levels))


Cost = Callable[[float, float], tuple[float, float]]
"""Returns the total error of a range, and the part of it that clipping causes."""


def cheapest_range(distribution: Distribution, cost: Cost) -> tuple[float, float]:
    """Return the range within a distribution's extremes that costs least.

    Args:
        distribution: of the tensor.
        cost: of a range [lo, hi] with lo ≤ 0 ≤ hi.
    """
    lo, hi = min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
    both = _search(lambda f: cost(lo * f, hi * f))
    best_lo, best_hi = lo * both, hi * both
    if lo < 0.0 < hi:
        for _ in range(_ROUNDS):
            best_hi = hi * _search(partial(_with_low, cost, best_lo, hi))
            best_lo = lo * _search(partial(_with_high, cost, best_hi, lo))
    return best_lo, best_hi


class _Cost:
    """Squared error of a range, and the part of it that clipping causes."""

    def __init__(self, distribution: Distribution, levels: int) -> None:
        lower, upper = distribution.spans
        self.x = (lower + upper) / 2
        self.width = upper - lower
        self.counts = distribution.counts.astype(np.float64)
        self.levels = levels

    def __call__(self, lo: float, hi: float) -> tuple[float, float]:
        """Return (total error, error of the clipped values), squared real units summed over all values."""
        step = (hi - lo) / (self.levels - 1)
        if step <= 0.0:
            return float("inf"), float("inf")
        first, last = np.searchsorted(self.x, lo), np.searchsorted(self.x, hi, side="right")
        below, above = slice(0, first), slice(last, None)
        inside = slice(first, last)
        clipped = float(np.sum(self.counts[below] * (self.x[below] - lo) ** 2))
        clipped += float(np.sum(self.counts[above] * (self.x[above] - hi) ** 2))
        return clipped + self._rounding(inside, step), clipped

    def _rounding(self, inside: slice, step: float) -> float:
        x, width, counts = self.x[inside], self.width[inside], self.counts[inside]
        remainder: Array = x - step * np.rint(x / step)
        # A cell narrower than a step has the error of its middle (and its own spread); over a wide one
        # rounding errors are spread evenly, with variance step² / 12.
        error = np.minimum(remainder**2 + width**2 / 12, step**2 / 4)
        return float(np.sum(counts * np.where(width < step / 4, error, step**2 / 12)))


def _with_low(cost: Cost, lo: float, hi: float, factor: float) -> tuple[float, float]:
    return cost(lo, hi * factor)


def _with_high(cost: Cost, hi: float, lo: float, factor: float) -> tuple[float, float]:
    return cost(lo * factor, hi)


def _search(cost: Callable[[float], tuple[float, float]]) -> float:
    """Return the factor in (0, 1] with the least cost, coarsely by octaves, then finely."""
    best, (least, _) = 1.0, cost(1.0)
    for index in range(1, _STEPS_PER_OCTAVE * _OCTAVES):
        factor = 2.0 ** (-index / _STEPS_PER_OCTAVE)
        total, clipped = cost(factor)
        if total < least:
            best, least = factor, total
        if clipped >= least:
            break
    coarse = best
    for index in range(-_REFINEMENT + 1, _REFINEMENT):
        factor = min(1.0, coarse * 2.0 ** (index / (_REFINEMENT * _STEPS_PER_OCTAVE)))
        total, _ = cost(factor)
        if total < least:
            best, least = factor, total
    return best
