"""Cosine of the angle between the outputs of both models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate import metrics
from qcompile.evaluate.measure import Array, Measure, Observation, output_name


@dataclass(frozen=True)
class Cosine(Measure):
    """Return the mean cosine with the float model's output, taken as vectors; of several outputs the worst.

    Args:
        output: the output to look at; "" for all.
    """

    name: ClassVar[str] = "cosine"
    needs_reference: ClassVar[bool] = True

    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return the cosine of each output, and 1."""
        names = [output_name(seen, self.output)] if self.output else list(seen.outputs)
        reference = seen.reference or {}
        return (*(metrics.cosine(reference[name], seen.outputs[name]) for name in names), 1.0)

    def value(self, sums: Array) -> Array:
        """Return the mean of the worst output."""
        return np.asarray((sums[..., :-1] / sums[..., -1:]).min(axis=-1))
