"""Cosine of the angle between the outputs of both models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate import metrics
from qcompile.evaluate.measure import Array, Measure, Observation, noisy_outputs, reference_output


@dataclass(frozen=True)
class Cosine(Measure):
    """Return the mean cosine with the float model's output, taken as vectors; of several outputs the worst.

    Args:
        output: the output to look at; "" for all that hold real numbers; where none does, for all.
    """

    name: ClassVar[str] = "cosine"
    needs_reference: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (cosine, 1) of each output; (0, 0) where nothing of the float model's is finite."""
        names = noisy_outputs(seen, self.output)
        found = [metrics.cosine(reference_output(seen, name), seen.outputs[name]) for name in names]
        return tuple(term for c in found for term in ((0.0, 0.0) if np.isnan(c) else (c, 1.0)))

    def value(self, sums: Array) -> Array:
        """Return the mean of the worst output; NaN where none counts."""
        added, counts = sums[..., 0::2], sums[..., 1::2]
        means = np.divide(added, counts, out=np.full_like(added, np.inf), where=counts > 0)
        worst = means.min(axis=-1)
        return np.asarray(np.where(np.isinf(worst), np.nan, worst))
