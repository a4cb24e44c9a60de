"""Room in a range for what samples to come exceed those seen by."""

from __future__ import annotations

from itertools import product

import numpy as np

from qcompile.calibrate.distribution import Array
from qcompile.calibrate.extremes import Extremes
from qcompile.calibrate.histogram import TensorStatistics

_POWER = 2.25
"""Of the error; above 2 it counts clipping more than rounding: errors of clipped values do not average out behind."""

_REACHES = tuple(1.0 + tenth / 10 for tenth in range(11))
"""Factors by which an end of the range may move."""


def with_room(statistics: TensorStatistics, lo: float, hi: float, *, levels: int = 256) -> tuple[float, float]:
    """Return the range whose ends lie as far out as samples to come make worth while.

    The largest values of the samples seen vary, and those of others will exceed them: in a residual stream, on one
    photograph in six by up to a half. At each end clipping costs what it did to the samples seen, or what it is
    expected to do to as many others, whichever is more.

    Formula:
        (a, b) = argmin rounded · (step / 2)^p / (p + 1) + clipped(a · lo) + clipped(b · hi), 1 ≤ a, b ≤ 2,
        step = (b · hi − a · lo) / (levels − 1), clipped(end) = max(Σ_seen excess^p, expected Σ excess^p), p = 2.25

    Args:
        statistics: of the tensor.
        lo: lower end that was chosen for it, at most 0.
        hi: upper end, at least 0.
        levels: number of integers between them, both included.
    """
    distribution = statistics.distribution()
    if distribution.sentinel() is not None:
        return lo, hi
    lower, upper = distribution.spans
    x, counts = (lower + upper) / 2, distribution.counts.astype(np.float64)
    below = _clipping(-x, counts, statistics.lows, -lo)
    above = _clipping(x, counts, statistics.highs, hi)
    rounded = distribution.total - distribution.zeros

    def cost(reaches: tuple[float, float]) -> float:
        step = (hi * reaches[1] - lo * reaches[0]) / (levels - 1)
        rounding = rounded * float((step / 2) ** _POWER) / (_POWER + 1)
        return rounding + below[reaches[0]] + above[reaches[1]]

    low, high = min(product(_REACHES, _REACHES), key=cost)
    return lo * low, hi * high


def _clipping(x: Array, counts: Array, extremes: Extremes, end: float) -> dict[float, float]:
    """Return what clipping costs at the upper end of a range, by the factor by which it moves."""
    found = {}
    for reach in _REACHES:
        seen = float(counts @ np.maximum(x - end * reach, 0.0) ** _POWER)
        found[reach] = max(seen, extremes.excess(end * reach, _POWER))
    return found
