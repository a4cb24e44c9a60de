"""What a search is after: how much accuracy may be lost, and how long an inference may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from qcompile.search.score import Score

DEFAULT_DROP = 0.005
"""The largest drop where the user names no goal."""

_SMALLEST_DROP = 1e-6
"""Drops below this count as this: they differ by rounding of the float network itself."""


@dataclass(frozen=True)
class Goal:
    """Targets of a search; those that are None do not count.

    Args:
        max_drop: largest share of the metric that may be lost, 0 to 1.
        min_sqnr: lowest SQNR at the worst output, dB.
        max_ms: longest inference on one core, measured or modelled node by node, milliseconds.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    max_ms: float | None = None

    @property
    def has_accuracy(self) -> bool:
        """Whether there is a target for the accuracy."""
        return self.max_drop is not None or self.min_sqnr is not None

    def shortfall_db(self, score: Score) -> float:
        """Return by how much the accuracy misses the worst of its targets.

        Formula:
            max(min_sqnr − SQNR, 10·log10(drop / max_drop)), dB; 0 or less where all are met. A drop grows with the
            power of the noise: about so many dB the noise must sink. Without a target, −SQNR.

        Args:
            score: of a candidate.
        """
        gaps = []
        if self.min_sqnr is not None:
            gaps.append(self.min_sqnr - score.sqnr_db)
        if self.max_drop is not None:
            lowest = max(self.max_drop, _SMALLEST_DROP)
            gaps.append(10 * math.log10(max(score.drop, _SMALLEST_DROP) / lowest))
        return max(gaps) if gaps else -score.sqnr_db

    def relaxed(self, db: float) -> Goal:
        """Return the goal whose targets for the accuracy are easier to meet.

        Args:
            db: by how much the shortfall of any score falls.
        """
        sqnr = None if self.min_sqnr is None else self.min_sqnr - db
        drop = None if self.max_drop is None else max(self.max_drop, _SMALLEST_DROP) * 10 ** (db / 10)
        return Goal(drop, sqnr, self.max_ms)

    def is_accurate(self, score: Score) -> bool:
        """Return whether every target for the accuracy is met; False where there is none."""
        return self.has_accuracy and self.shortfall_db(score) <= 0.0

    def is_fast(self, score: Score) -> bool:
        """Return whether the target for the time is met."""
        return self.max_ms is None or score.ms <= self.max_ms

    def text(self) -> str:
        """Return the targets in words."""
        parts = []
        if self.max_drop is not None:
            parts.append(f"a drop of at most {100 * self.max_drop:g} %")
        if self.min_sqnr is not None:
            parts.append(f"an SQNR of at least {self.min_sqnr:g} dB")
        if self.max_ms is not None:
            parts.append(f"at most {self.max_ms:g} ms by the cost model")
        return " and ".join(parts) or "the best accuracy"

    def to_json(self) -> dict[str, Any]:
        """Return the targets that count, by name."""
        named = {"max_drop": self.max_drop, "min_sqnr": self.min_sqnr, "max_ms": self.max_ms}
        return {name: value for name, value in named.items() if value is not None}
