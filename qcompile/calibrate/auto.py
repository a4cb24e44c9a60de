"""The range, among those of several observers, that distorts a tensor least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.minmax import MinMax
from qcompile.calibrate.mse import Mse
from qcompile.calibrate.observer import Observer
from qcompile.calibrate.percentile import Percentile
from qcompile.errors import UsageError

_CANDIDATES = (MinMax(), Percentile(99.999), Percentile(99.99), Mse())


@dataclass(frozen=True)
class Auto(Observer):
    """Takes, for each tensor, the candidate with the least error, large errors weighted more.

    Formula:
        (lo, hi) = argmin over minmax, percentile 99.999, percentile 99.99, mse of Σ_cells count · E|x − x̂|^power,
        where E|x − x̂|^power = (step / 2)^power / (power + 1) inside the range, and |x − bound|^power outside

    Args:
        power: exponent of the error; 2 is the squared error. Above 2 counts clipping more than rounding: the
            rare large values of a tensor are often the ones a network acts on, and all errors of a clipped
            value have the same sign, so that they do not average out behind.

    Source:
        Nahshan et al., "Loss aware post-training quantization", 2019 (L_p norms, 2 ≤ p ≤ 4).
    """

    name: ClassVar[str] = "auto"
    weighs_errors: ClassVar[bool] = True
    power: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.power <= 8:
            raise UsageError(
                f"observer auto: power={self.power} is not in [1, 8]", hint="2 is the squared error, 3 the default"
            )

    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the best candidate's range; of equals the first."""
        ranges = [candidate.choose(distribution, levels) for candidate in _CANDIDATES]
        return min(ranges, key=lambda r: self._cost(distribution, min(r[0], 0.0), max(r[1], 0.0), levels))

    def _cost(self, distribution: Distribution, lo: float, hi: float, levels: int) -> float:
        """Return the weighted error of a range, summed over all values."""
        lower, upper = distribution.spans
        x = (lower + upper) / 2
        step = (hi - lo) / (levels - 1)
        if step <= 0.0:
            return float("inf")
        rounding = np.where(x == 0.0, 0.0, (step / 2) ** self.power / (self.power + 1))
        outside = np.maximum(np.maximum(lo - x, x - hi), 0.0)
        error = np.where(outside > 0.0, outside**self.power, rounding)
        return float(distribution.counts.astype(np.float64) @ error)
