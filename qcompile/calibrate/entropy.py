"""The range that keeps the most information about the distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompile.calibrate.distribution import Array, Distribution
from qcompile.calibrate.observer import Observer

_BINS_PER_LEVEL = 8
_CANDIDATES = 64
_SMALLEST_FACTOR = 1 / 32


@dataclass(frozen=True)
class Entropy(Observer):
    """Clips where the Kullback-Leibler divergence from the quantized distribution is least.

    Formula:
        (lo, hi) = argmin Σ_i P(i) · ln(P(i) / Q(i)),
        P: the values in eight bins per level over [lo, hi], all values outside added to the end bins;
        Q: the values inside, pooled into one group of bins per level and spread evenly again over those
        bins of the group that hold values

    Exact zeros take no part: every range represents them. Both ends shrink together first, then each by
    itself.

    Source:
        Migacz, "8-bit inference with TensorRT", GTC 2017.
    """

    name: ClassVar[str] = "entropy"

    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the best range found."""
        lo, hi = min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
        factors = np.geomspace(1.0, _SMALLEST_FACTOR, _CANDIDATES).tolist()
        measure = _Divergence(distribution, levels)
        both = min(factors, key=lambda f: measure(lo * f, hi * f))
        best_lo, best_hi = lo * both, hi * both
        if lo < 0.0 < hi:
            best_hi = min((hi * f for f in factors), key=lambda end: measure(best_lo, end))
            best_lo = min((lo * f for f in factors), key=lambda end: measure(end, best_hi))
        return best_lo, best_hi


class _Divergence:
    """Divergence between a distribution and its quantized image over a range, in nats."""

    def __init__(self, distribution: Distribution, levels: int) -> None:
        self.distribution = distribution
        self.levels = levels
        lower, upper = distribution.spans
        self.nonzero = distribution.total - distribution.zeros
        self.points = (lower + upper) / 2, np.where((lower == 0) & (upper == 0), 0, distribution.counts)

    def __call__(self, lo: float, hi: float) -> float:
        """Return the divergence for the range [lo, hi]."""
        inside = self._inside(lo, hi)
        if inside.sum() <= 0.0:
            return float("inf")
        outside = max(self.nonzero - inside.sum(), 0.0)
        x, counts = self.points
        low_tail = float(counts[x < lo].sum())
        high_tail = float(counts[x > hi].sum())
        reference = inside.copy()
        tails = low_tail + high_tail
        if tails > 0.0:
            reference[0] += outside * low_tail / tails
            reference[-1] += outside * high_tail / tails
        return _divergence(reference, _pooled(inside, self.levels))

    def _inside(self, lo: float, hi: float) -> Array:
        bins = self.levels * _BINS_PER_LEVEL
        counts = self.distribution.uniform(bins, lo, hi)
        if self.distribution.zeros:
            # The bin that `uniform` puts zero in; see Distribution.uniform.
            edges = np.linspace(lo, hi, bins + 1)
            place = bins - 1 if hi == 0.0 else int(np.searchsorted(edges, 0.0, side="right")) - 1
            counts[place] = max(counts[place] - self.distribution.zeros, 0.0)
        return counts


def _pooled(counts: Array, levels: int) -> Array:
    """Return the counts after each level's bins became one and were spread out again."""
    groups = counts.reshape(levels, -1)
    used = groups > 0
    share = groups.sum(axis=1) / np.maximum(used.sum(axis=1), 1)
    return np.asarray((used * share[:, None]).reshape(-1))


def _divergence(reference: Array, image: Array) -> float:
    """Return Σ P ln(P / Q) of two histograms, where a bin that only P has costs as if Q were one value."""
    used = reference > 0
    p = reference[used] / reference.sum()
    q = np.maximum(image[used], 1.0 * (image[used] <= 0)) / image.sum()
    return float(np.sum(p * np.log(p / q)))
