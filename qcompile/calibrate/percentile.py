"""The range that holds all but a few values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.observer import Observer
from qcompile.errors import UsageError


@dataclass(frozen=True)
class Percentile(Observer):
    """Cuts a fixed fraction off either tail.

    Formula:
        lo = quantile(x, 1 − percentile / 100), hi = quantile(x, percentile / 100)

    Args:
        percentile: percent of the values that lie below hi, and above lo; above 50, at most 100.

    Source:
        McKinstry et al., "Discovering low-precision networks close to full-precision networks", 2018, §3.
    """

    name: ClassVar[str] = "percentile"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise UsageError(
                f"observer percentile: percentile={self.percentile} is not in (50, 100]",
                hint="99.99 keeps all but one value in ten thousand on either side",
            )

    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the two quantiles."""
        fraction = self.percentile / 100
        return distribution.quantile(1 - fraction), distribution.quantile(fraction)
