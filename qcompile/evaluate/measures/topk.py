"""Share of samples whose class is among the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qcompile.errors import UsageError
from qcompile.evaluate.classes import class_label, guesses
from qcompile.evaluate.measure import Array, Measure, Observation, quotient


@dataclass(frozen=True)
class Topk(Measure):
    """Return the share of samples whose label is among the k highest scores.

    A sample with a score that is NaN or infinite is wrong, unless the float model's is so at the same place; −inf masks
    a class.

    Args:
        k: how many guesses count, at least 1.
        output: the output with the scores; "" for the only one.
    """

    name: ClassVar[str] = "topk"
    proportion: ClassVar[bool] = True
    needs_label: ClassVar[bool] = True

    k: int = 5
    output: str = ""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def row(self, seen: Observation) -> Any:
        """Return (hit, 1).

        Raises:
            UsageError: there are no more classes than guesses, so that no guess could be wrong.
        """
        best, classes = guesses(seen, self.output, self.k)
        if self.k >= classes:
            raise UsageError(
                f"topk{{k={self.k}}}: the model has {classes} classes, so every label is among the best {self.k}",
                hint=f"choose a k below {classes}" if classes > 2 else "choose top1",
            )
        return float(class_label(seen, classes) in (best or ())), 1.0

    def value(self, sums: Array) -> Array:
        """Return hits / samples."""
        return quotient(sums)
