"""Share of samples for which both models name the same class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate.measure import Array, Measure, Observation, class_scores


@dataclass(frozen=True)
class Agreement(Measure):
    """Return the share of samples whose best class is the float model's.

    Args:
        output: the output with the scores; "" for the only one.
    """

    name: ClassVar[str] = "agreement"
    proportion: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (same, 1)."""
        ours = class_scores(seen, seen.outputs, self.output)
        theirs = class_scores(seen, seen.reference or {}, self.output)
        return float(np.argmax(ours) == np.argmax(theirs)), 1.0

    def value(self, sums: Array) -> Array:
        """Return samples that agree / samples."""
        return np.asarray(sums[..., 0] / sums[..., 1])
