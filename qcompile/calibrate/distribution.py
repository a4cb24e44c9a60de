"""The distribution of a tensor's values, as observers see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_APART = 64.0
"""A marker is so many times larger than everything else: a range with both leaves the rest 4 of 256 codes."""

_ALIKE = 1.25
"""Markers differ by less than this factor: one constant, plus what was added to it."""

_LEAST_SHARE = 1e-3
"""Rarer large values are outliers, which a range may clip."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """How often a tensor takes which values: disjoint cells in ascending order, with their counts.

    Within a cell values count as spread evenly, up to the smallest and largest value seen. Exact zeros
    form a cell of width 0, since zero is represented without error whatever the range.

    Args:
        lower: lower bound of each cell, float64 [cells], real units.
        upper: upper bound of each cell, float64 [cells], real units.
        counts: values in each cell, int64 [cells], all positive.
        minimum: smallest value seen, real units.
        maximum: largest value seen, real units.
        moving_minimum: exponential moving average of the minima of the samples, real units.
        moving_maximum: exponential moving average of the maxima of the samples, real units.
    """

    lower: Array
    upper: Array
    counts: Array
    minimum: float
    maximum: float
    moving_minimum: float
    moving_maximum: float

    @cached_property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @cached_property
    def zeros(self) -> int:
        """Number of values that are zero (or too small for a normal float32)."""
        return int(self.counts[(self.lower == 0) & (self.upper == 0)].sum())

    @cached_property
    def spans(self) -> tuple[Array, Array]:
        """Bounds of the cells, narrowed to the smallest and largest value seen, float64 [cells] each."""
        return np.maximum(self.lower, self.minimum), np.minimum(self.upper, self.maximum)

    def sentinel(self) -> float | None:
        """Return the value that marks something rather than measures it, such as a mask of -10000; else None.

        That is a value taken often, of one sign, at least 64 times as large as all others, of which some are not
        zero.
        """
        spans = self.spans
        sizes = np.maximum(np.abs(spans[0]), np.abs(spans[1]))
        order = np.argsort(sizes)
        ascending = sizes[order]
        if ascending.size < 2:
            return None
        # Cells of both signs are mixed by magnitude; the marker is what follows the only wide gap.
        above = np.flatnonzero((ascending[1:] >= _APART * ascending[:-1]) & (ascending[:-1] > 0)) + 1
        if not above.size or ascending[-1] > _ALIKE * ascending[above[-1]]:
            return None
        far = order[above[-1] :]
        if self.counts[far].sum() < _LEAST_SHARE * self.total or len({bool(spans[0][i] < 0) for i in far}) > 1:
            return None
        return float(spans[0][far[0]] if spans[0][far[0]] < 0 else spans[1][far[0]])

    def folded(self) -> Distribution:
        """Return the distribution of the magnitudes |x|."""
        negative = self.upper <= 0
        # Abs turns the -0.0 of a negated zero cell into 0.0.
        lower = np.abs(np.where(negative, -self.upper, self.lower))
        upper = np.abs(np.where(negative, -self.lower, self.upper))
        # Cells of either sign lie on one grid, so a lower bound names a cell; the zero cell differs from
        # the first positive one by its width.
        keys, place = np.unique(np.stack([lower, upper], axis=1), axis=0, return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, place.ravel(), self.counts)
        peak = max(abs(self.minimum), abs(self.maximum))
        moving = max(abs(self.moving_minimum), abs(self.moving_maximum))
        return Distribution(keys[:, 0], keys[:, 1], counts, 0.0, peak, 0.0, moving)

    def quantile(self, fraction: float) -> float:
        """Return the value below which a fraction of the values lies.

        Formula:
            the value of rank fraction · (total − 1), as in numpy.quantile's default, taken as evenly
            spread within its cell: off by less than the cell's width, 1/128 of the value

        Args:
            fraction: 0 to 1.
        """
        lower, upper = self.spans
        ends = np.cumsum(self.counts)
        rank = fraction * (self.total - 1) + 0.5
        cell = min(int(np.searchsorted(ends, rank)), ends.size - 1)
        inside = (rank - (ends[cell] - self.counts[cell])) / self.counts[cell]
        return float(lower[cell] + inside * (upper[cell] - lower[cell]))

    def uniform(self, bins: int, low: float, high: float) -> Array:
        """Return the counts of equally wide bins over [low, high], float64 [bins].

        Values outside fall off; a cell that crosses an edge is divided in proportion.

        Args:
            bins: number of bins.
            low: lower edge of the first bin, real units.
            high: upper edge of the last bin, real units, above low.
        """
        edges = np.linspace(low, high, bins + 1)
        lower, upper = self.spans
        point = upper <= lower
        counts = np.zeros(bins)
        if not point.all():
            mass = np.cumsum(self.counts[~point])
            knots = np.stack([lower[~point], upper[~point]], axis=1).ravel()
            heights = np.stack([mass - self.counts[~point], mass], axis=1).ravel()
            counts += np.diff(np.interp(edges, knots, heights))
        values = lower[point]
        places = np.where(values == high, bins - 1, np.searchsorted(edges, values, side="right") - 1)
        inside = (places >= 0) & (places < bins)
        np.add.at(counts, places[inside], self.counts[point][inside])
        return counts
