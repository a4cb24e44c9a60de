"""How large the largest value of a sample is, and what that says of samples to come."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.exact_sum import ExactSum

LEAST_SAMPLES = 8
"""Fewer say nothing of how much the largest values vary."""

_QUANTILES = 2000
"""Samples to come that stand for all: an excess rarer than one in so many counts for nothing."""


class Extremes:
    """Mean and deviation of the largest values of single samples.

    Largest values of samples follow a Gumbel distribution where the values have a tail like that of a normal or
    Laplace distribution, as activations have. A tensor that is clipped has no deviation, and thus no excess.

    Source:
        Gumbel, "Statistics of extremes", 1958 (moments of the distribution).
    """

    def __init__(self) -> None:
        self.count = 0
        # So that they do not depend on the order of samples.
        self._sum, self._squares = ExactSum(), ExactSum()
        self._foreseen: npt.NDArray[np.float64] | None = None

    def add(self, largest: float) -> None:
        """Count the largest value of one more sample, real units; a float32 number, whose square is exact."""
        self.count += 1
        self._foreseen = None
        self._sum.add(largest)
        self._squares.add(largest * largest)

    def excess(self, bound: float, power: float) -> float:
        """Return by how much samples to come exceed a bound, summed over as many as were seen.

        Formula:
            count · E[max(M − bound, 0)^power], M = mean + deviation · √6/π · (−ln(−ln u) − γ), u uniform in (0, 1)

        Args:
            bound: real units.
            power: exponent of the excess.

        Returns:
            0 where too few samples were seen.
        """
        if self.count < LEAST_SAMPLES:
            return 0.0
        if self._foreseen is None:
            self._foreseen = self._largest_to_come()
        return self.count * float(np.mean(np.maximum(self._foreseen - bound, 0.0) ** power))

    def _largest_to_come(self) -> npt.NDArray[np.float64]:
        """Return the largest values M of samples that stand for all to come."""
        mean = self._sum.value / self.count
        deviation = math.sqrt(float(self._squares.value / self.count - mean**2))
        u = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        return float(mean) + deviation * math.sqrt(6) / math.pi * (-np.log(-np.log(u)) - np.euler_gamma)
