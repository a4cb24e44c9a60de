"""Share of samples whose best class is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qcompile.evaluate.classes import class_label, guesses
from qcompile.evaluate.measure import Array, Measure, Observation, quotient


@dataclass(frozen=True)
class Top1(Measure):
    """Return the share of samples whose label has the highest score; of equals the lower index counts.

    A sample with a score that is NaN or infinite is wrong, unless the float model's is so at the same place; −inf masks
    a class.

    Args:
        output: the output with the scores; "" for the only one.
    """

    name: ClassVar[str] = "top1"
    proportion: ClassVar[bool] = True
    needs_label: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (hit, 1)."""
        best, classes = guesses(seen, self.output, 1)
        return float(class_label(seen, classes) in (best or ())), 1.0

    def value(self, sums: Array) -> Array:
        """Return hits / samples."""
        return quotient(sums)
