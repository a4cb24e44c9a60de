"""Coefficient of determination of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate.measure import Array, Measure, Observation, quotient
from qcompile.evaluate.truth import deviations

_ROUNDING = 1e-13  # of the sum of squares: a spread below is what rounding leaves of values that are all the same


@dataclass(frozen=True)
class R2(Measure):
    """Return the share of the variance of the labels that the answers explain, or of the float model's without any.

    Formula:
        1 − Σ (a − t)² / Σ (t − t̄)², sums and the mean t̄ over all values of all samples; values t that are not finite
        do not count; NaN where all are the same

    Args:
        output: the output with the numbers; "" for the only one.

    Source:
        Draper and Smith, "Applied regression analysis", 1998, ch. 1.
    """

    name: ClassVar[str] = "r2"

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (squared errors, squares of the true values, their sum, values)."""
        truth, apart = deviations(seen, self.output, self.name)
        return float(np.square(apart).sum()), float(np.square(truth).sum()), float(truth.sum()), float(truth.size)

    def counts(self, rows: Sequence[Any]) -> Array:
        """Return which samples hold numbers: one number alone has no variance, but is part of that of all."""
        return np.asarray(rows, np.float64)[:, 3] > 0

    def value(self, sums: Array) -> Array:
        """Return 1 − squared errors / spread of the true values."""
        missed, squares, total, count = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
        spread = squares - np.square(total) / np.maximum(count, 1.0)
        return 1.0 - quotient(np.stack([missed, np.where(spread > _ROUNDING * squares, spread, 0.0)], axis=-1))
