"""Character error rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.evaluate.measure import Array, Measure, Observation
from qcompile.evaluate.transcripts import edits, transcript, truth_like


@dataclass(frozen=True)
class Cer(Measure):
    """Return the errors per true character; class indices count as characters where no names are known. Less is better.

    Formula:
        Σ (insertions + deletions + replacements) / Σ characters of the labels

    Args:
        decode: `module:function` from the outputs to a text; "" for best path, blank 0.
        output: the output to read; "" for the only one.
    """

    name: ClassVar[str] = "cer"
    higher_is_better: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True

    decode: str = ""
    output: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (errors, characters)."""
        first = transcript(seen, seen.outputs, self.decode, self.output)
        second = truth_like(first, seen.label, seen.where)
        read, truth = first, second
        return edits(read, truth), len(truth)

    def value(self, sums: Array) -> Array:
        """Return errors / characters; without any true one, the errors themselves."""
        return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1.0))
