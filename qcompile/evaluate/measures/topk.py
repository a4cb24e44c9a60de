"""Share of samples whose class is among the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate.measure import Array, Measure, Observation, class_label, class_scores
from qcompile.evaluate.metrics import top_k


@dataclass(frozen=True)
class Topk(Measure):
    """Return the share of samples whose label is among the k highest scores.

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
        """Return (hit, 1)."""
        scores = class_scores(seen, seen.outputs, self.output)
        return float(class_label(seen, scores.size) in top_k(scores, self.k)), 1.0

    def value(self, sums: Array) -> Array:
        """Return hits / samples."""
        return np.asarray(sums[..., 0] / sums[..., 1])
