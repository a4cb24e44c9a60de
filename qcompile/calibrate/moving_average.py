"""The range of a typical sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.histogram import TensorStatistics
from qcompile.calibrate.observer import Observer
from qcompile.errors import UsageError


@dataclass(frozen=True)
class MovingAverage(Observer):
    """Averages the extremes of the samples, so that one unusual sample counts little.

    Formula:
        lo₁ = min(x₁), loₙ = momentum · loₙ₋₁ + (1 − momentum) · min(xₙ), and likewise hi with max

    The only observer whose answer depends on the order of the samples.

    Args:
        momentum: weight of the past, 0 (only the last sample counts) to 1 (only the first).

    Source:
        Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
        inference", 2018, §3.1.
    """

    name: ClassVar[str] = "moving-average"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise UsageError(f"observer moving-average: momentum={self.momentum} is not between 0 and 1")

    def new_statistics(self, tensor: str) -> TensorStatistics:
        """Return empty statistics with this momentum."""
        return TensorStatistics(tensor, momentum=self.momentum)

    def choose(self, distribution: Distribution, levels: int) -> tuple[float, float]:
        """Return the moving averages of the extremes."""
        return distribution.moving_minimum, distribution.moving_maximum
