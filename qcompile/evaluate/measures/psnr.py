"""Peak signal to noise ratio of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate import metrics
from qcompile.evaluate.measure import Array, Measure, Observation, quotient
from qcompile.evaluate.truth import true_values

_LIMIT_DB = 100.0


@dataclass(frozen=True)
class Psnr(Measure):
    """Return the mean PSNR against the labels (true images), or against the float model where there are none.

    Formula:
        mean over samples of min(100, 10·log₁₀(peak² / mean((r − a)²)))

    Args:
        peak: largest possible value of a pixel, in the unit of the output: 1.0 or 255.
        output: the output with the image; "" for the only one.
    """

    name: ClassVar[str] = "psnr"
    unit: ClassVar[str] = "dB"

    peak: float = 1.0
    output: str = ""

    def __post_init__(self) -> None:
        if not self.peak > 0:
            raise ValueError(f"peak must be above 0, got {self.peak}")

    def row(self, seen: Observation) -> Any:
        """Return (decibels, 1); (0, 0) where no pixel of the truth is finite."""
        target, image = true_values(seen, self.output, self.name)
        decibels = metrics.psnr_db(target, image, self.peak) if image.size else np.nan
        return (0.0, 0.0) if np.isnan(decibels) else (min(_LIMIT_DB, decibels), 1.0)

    def value(self, sums: Array) -> Array:
        """Return the mean."""
        return quotient(sums)
