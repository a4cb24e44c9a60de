"""Share of samples whose best class is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate.measure import Array, Measure, Observation, class_label, class_scores


@dataclass(frozen=True)
class Top1(Measure):
    """Return the share of samples whose label has the highest score; of equals the lower index counts.

    Args:
        output: the output with the scores; "" for the only one.
    """

    name: ClassVar[str] = "top1"
    proportion: ClassVar[bool] = True
    needs_label: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (hit, 1)."""
        scores = class_scores(seen, seen.outputs, self.output)
        return float(np.argmax(scores) == class_label(seen, scores.size)), 1.0

    def value(self, sums: Array) -> Array:
        """Return hits / samples."""
        return np.asarray(sums[..., 0] / sums[..., 1])
