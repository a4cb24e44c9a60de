"""Confidence intervals of what was measured on samples."""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, inf, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CONFIDENCE = 0.95
"""Share of repeated evaluations whose interval would hold the true value."""

RESAMPLES = 1000
_NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2
_DRAWN = 1 << 20  # numbers to draw at a time: resamples of 50,000 samples take 400 MB all at once
_HALVINGS = 60


def wilson(hits: float, count: int) -> tuple[float, float]:
    """Return the confidence interval of a proportion.

    Formula:
        (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        hits: samples that count.
        count: samples in all, above 0.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    p, z2 = hits / count, _NORMAL_QUANTILE**2
    centre = p + z2 / (2 * count)
    spread = _NORMAL_QUANTILE * np.sqrt(p * (1 - p) / count + z2 / (4 * count * count))
    scale = 1 + z2 / count
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def paired_score(first: int, second: int, count: int) -> tuple[float, float]:
    """Return the confidence interval of the difference of two proportions on the same samples.

    It has a width even where no sample tells both apart, which a bootstrap would take for certainty.

    Formula:
        all d with |b − c − n·d| ≤ z·√(n·(2q + d(1−d))), where q is the likeliest share of c for that d

    Args:
        first: samples that count for the first alone, b.
        second: samples that count for the second alone, c.
        count: samples in all, n, above 0.

    Source:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design", 1998.
    """
    b, c, n = first, second, count

    def score(d: float) -> float:
        """Return by how many deviations the counts lie above a difference d."""
        slope, constant = -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
        q = (sqrt(max(slope * slope - 8 * n * constant, 0.0)) - slope) / (4 * n)
        above, variance = b - c - n * d, n * (2 * q + d * (1 - d))
        return above / sqrt(variance) if variance > 0 else copysign(inf, above) if above else 0.0

    middle = (b - c) / n
    low = _crossing(lambda d: score(d) > _NORMAL_QUANTILE, -1.0, middle)
    return low, _crossing(lambda d: score(d) >= -_NORMAL_QUANTILE, middle, 1.0)


def _crossing(before: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that holds at first ceases to hold."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2


def resampled(value: Callable[[Array], Array], table: Array, seed: int) -> Array:
    """Return a function of sums for RESAMPLES sets drawn with replacement, the same sets for the same seed.

    Args:
        value: takes rows added up, [..., terms].
        table: rows, float64 [samples, terms].
        seed: of the draws.
    """
    generator, count = np.random.default_rng(seed), len(table)
    shares, most = np.full(count, 1 / count), max(1, _DRAWN // count)
    steps = [min(most, RESAMPLES - done) for done in range(0, RESAMPLES, most)]
    return np.concatenate([value(generator.multinomial(count, shares, step) @ table) for step in steps])


def middle_share(values: Array) -> tuple[float, float]:
    """Return the ends of the middle CONFIDENCE of values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
