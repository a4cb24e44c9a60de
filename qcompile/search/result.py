"""What a search found, and how it came to it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qcompile.search.goal import Goal
from qcompile.search.recipe import Recipe
from qcompile.search.score import Score
from qcompile.search.sensitivity import Sensitivity

if TYPE_CHECKING:
    from qcompile.search.candidates import Made

MOST_RECORDED = 20
"""Sensitivities that a manifest records, the most harmful first."""


@dataclass(frozen=True)
class Attempt:
    """One candidate on the way.

    Args:
        title: what was tried, in words.
        outcome: "start", "kept", "dropped", "no effect", "checked" or "chosen".
        score: as measured.
        kept_float: how many nodes it keeps in float32 beyond those that the user named.
        kept_int16: how many it lets compute on 16-bit activations.
    """

    title: str
    outcome: str
    score: Score
    kept_float: int = 0
    kept_int16: int = 0


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Args:
        goal: what was wanted.
        recipe: passes from the simplified float graph to the final one.
        score: of this recipe, on the samples kept for verification.
        met: whether all targets are met.
        reason: why the search stopped, in one sentence.
        attempts: every candidate, in order.
        kept_float: results of the nodes that the search keeps in float32.
        sensitivities: what each node does to the outputs, the most harmful first; empty where it was not needed.
        calibration: samples that calibrated.
        verification: samples that verified.
        divided: whether these are others than those that calibrated.
        kept_int16: results of the nodes that the search lets compute on 16-bit activations.
        metric: the user's, as `UserMetric.to_json` returns it; None where drops are estimated without labels.
        left_out: means that were not tried, and why.
        made: what the recipe made; None where that is not known.
        whole: whether it was made, in the end, with all samples: those that verified took part only then.
    """

    goal: Goal
    recipe: Recipe
    score: Score
    met: bool
    reason: str
    attempts: tuple[Attempt, ...]
    kept_float: tuple[str, ...]
    sensitivities: tuple[Sensitivity, ...]
    calibration: int
    verification: int
    divided: bool = True
    kept_int16: tuple[str, ...] = ()
    metric: dict[str, Any] | None = None
    left_out: tuple[str, ...] = ()
    made: Made | None = None
    whole: bool = False

    def doubts(self, sqnr_db: float) -> list[str]:
        """Return what to tell of a goal that was met on the samples that verified, and is not on those compared last.

        Args:
            sqnr_db: at the worst output of the network that was made, dB.
        """
        wanted = self.goal.min_sqnr
        if not self.met or wanted is None or sqnr_db >= wanted:
            return []
        return [
            f"on the samples compared at the end the worst output has {sqnr_db:.1f} dB, less than the goal that others "
            f"met: ask for more to be sure, such as --min-sqnr {math.ceil(2 * wanted - sqnr_db)}"
        ]

    def front(self) -> list[Attempt]:
        """Return the candidates that no other one beats in both time and accuracy, the fastest first."""
        found: list[Attempt] = []
        for attempt in sorted(self.attempts, key=lambda a: (a.score.ms, -a.score.sqnr_db)):
            if not found or attempt.score.sqnr_db > found[-1].score.sqnr_db:
                found.append(attempt)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the search as a manifest records it."""
        return {
            "goal": self.goal.to_json(),
            "metric": self.metric,
            "met": self.met,
            "score": self.score.to_json(),
            "stopped": self.reason,
            "samples": {
                "calibration": self.calibration,
                "verification": self.verification,
                "all_in_the_end": self.whole,
            },
            "attempts": [_attempt(a) for a in self.attempts],
            "left_out": list(self.left_out),
            "front": [_attempt(a) for a in self.front()],
            "kept_float": list(self.kept_float),
            "kept_int16": list(self.kept_int16),
            "sensitivity": [asdict(row) for row in self.sensitivities[:MOST_RECORDED]],
        }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    fields = {name: getattr(attempt, name) for name in ("title", "outcome", "kept_float", "kept_int16")}
    return {**fields, **attempt.score.to_json()}
