"""Share of samples for which both models name the same class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qcompile.evaluate.classes import both_best
from qcompile.evaluate.measure import Array, Measure, Observation, quotient


@dataclass(frozen=True)
class Agreement(Measure):
    """Return the share of samples whose best class is the float model's.

    Scores that are not finite in the float model do not count, and neither does a sample without any other; where only
    the model under evaluation has such scores, they do not agree.

    Args:
        output: the output with the scores; "" for the only one.
    """

    name: ClassVar[str] = "agreement"
    proportion: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (same, 1); (0, 0) where the float model names no class."""
        ours, theirs = both_best(seen, self.output)
        return float(theirs is not None and ours == theirs), float(theirs is not None)

    def value(self, sums: Array) -> Array:
        """Return samples that agree / samples."""
        return quotient(sums)
