"""Mean absolute error of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qcompile.evaluate.measure import Array, Measure, Observation, quotient
from qcompile.evaluate.truth import deviations


@dataclass(frozen=True)
class Mae(Measure):
    """Return the mean absolute error against the labels, or against the float model without any. Less is better.

    Formula:
        Σ |a − t| / n, sums over all values of all samples; values t that are not finite do not count

    Args:
        output: the output with the numbers; "" for the only one.

    Source:
        Willmott and Matsuura, "Advantages of the mean absolute error (MAE) over the root mean square error (RMSE) in
        assessing average model performance", 2005.
    """

    name: ClassVar[str] = "mae"
    higher_is_better: ClassVar[bool] = False

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (absolute errors, values)."""
        _, apart = deviations(seen, self.output, self.name)
        return float(apart.sum()), float(apart.size)

    def value(self, sums: Array) -> Array:
        """Return absolute errors / values."""
        return quotient(sums)
