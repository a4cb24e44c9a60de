"""The whole range that was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.observer import Observer


@dataclass(frozen=True)
class MinMax(Observer):
    """Covers every value that calibration saw.

    Formula:
        lo = min(x), hi = max(x)

    Nothing saturates, but one outlier widens the step for all other values.

    Source:
        Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018, §2.1.
    """

    name: ClassVar[str] = "minmax"

    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        return distribution.minimum, distribution.maximum
