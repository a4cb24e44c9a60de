"""Mean average precision of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from qcompile.errors import InternalError
from qcompile.evaluate.boxes import detections, matched, true_boxes
from qcompile.evaluate.intervals import middle_share
from qcompile.evaluate.measure import Array, Estimate, Measure, Observation
from qcompile.ir.fields import Bounds

_COCO = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_RESAMPLES = 100  # each sorts all boxes anew


@dataclass(frozen=True)
class Map(Measure):
    """Return the mean over classes of the average precision, on labels of [boxes, 5]: x1, y1, x2, y2, class.

    Formula:
        AP = mean over 101 recalls r of max precision at a recall ≥ r; averaged over the overlaps 0.5, 0.55, … 0.95,
        or at the one overlap `iou`

    Args:
        iou: intersection over union that counts as a match; 0 for COCO's average.
        decode: `module:function` from the outputs to [boxes, 6]: x1, y1, x2, y2, score, class.
        most: detections of a class that count in an image, the best ones, as in COCO's evaluation code; 0 for all.

    Source:
        Lin et al., "Microsoft COCO: common objects in context", 2014, and its evaluation code's definition.
    """

    name: ClassVar[str] = "map"
    needs_label: ClassVar[bool] = True

    iou: Annotated[float, Bounds(0.0, 1.0)] = 0.0
    decode: str = ""
    most: Annotated[int, Bounds(0)] = 100

    def row(self, seen: Observation) -> Any:
        """Return (score, class and match at each overlap of all boxes; class of each true box)."""
        found = _best(detections(seen.outputs, self.decode, seen.where), self.most)
        truth = true_boxes(seen.label, seen.where)
        levels = _COCO if self.iou == 0 else np.asarray([self.iou])
        hits = np.stack([matched(found, truth, level) for level in levels], axis=1)
        return found[:, 4], found[:, 5], hits, truth[:, 4]

    def value(self, sums: Array) -> Array:
        """Not a function of sums; see `estimate`."""
        raise InternalError("mean average precision is no function of sums")

    def estimate(self, rows: Sequence[Any], seed: int = 0) -> Estimate:
        """Return the value over all images, with a bootstrap interval, which one image does not give."""
        value = _mean_precision(rows)
        return Estimate(value, *middle_share(self._resampled(rows, seed))) if len(rows) > 1 else Estimate(value)

    def counts(self, rows: Sequence[Any]) -> Array:
        """Return that every image counts: where there is nothing to find, what is found is wrong."""
        return np.ones(len(rows), np.bool_)

    def _resampled(self, rows: Sequence[Any], seed: int) -> Array:
        generator = np.random.default_rng(seed)
        drawn = generator.integers(0, len(rows), (_RESAMPLES, len(rows)))
        return np.asarray([_mean_precision([rows[i] for i in indices]) for indices in drawn])


def _best(found: Array, most: int) -> Array:
    """Return the first detections of each class, in their order.

    Args:
        found: [n, 6], best score first.
        most: of each class; 0 for all.
    """
    if most == 0 or len(found) <= most:
        return found
    kept = np.zeros(len(found), np.bool_)
    for wanted in np.unique(found[:, 5]):
        kept[np.flatnonzero(found[:, 5] == wanted)[:most]] = True
    return found[kept]


def _mean_precision(rows: Sequence[Any]) -> float:
    scores, classes, hits, truth = (np.concatenate([row[i] for row in rows]) for i in range(4))
    known = np.unique(truth)
    if known.size == 0:
        return 0.0
    parts = []
    for wanted in known:
        of_class = classes == wanted
        order = np.argsort(-scores[of_class], kind="stable")
        parts.append(_average_precision(hits[of_class][order], int((truth == wanted).sum())))
    return float(np.mean(parts))


def _average_precision(hits: Array, count: int) -> float:
    """Return the mean over overlaps of AP, from matches in the order of falling score, [boxes, overlaps]."""
    if len(hits) == 0:
        return 0.0
    right = np.cumsum(hits, axis=0)
    precision = right / np.arange(1, len(hits) + 1)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    areas = []
    for level in range(hits.shape[1]):
        places = np.searchsorted(right[:, level] / count, _RECALLS, side="left")
        reached = places < len(hits)
        areas.append(np.where(reached, envelope[np.minimum(places, len(hits) - 1), level], 0.0).mean())
    return float(np.mean(areas))
