"""F1 of detected boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from qcompile.evaluate.boxes import detections, matched, true_boxes
from qcompile.evaluate.measure import Array, Measure, Observation, float_outputs
from qcompile.ir.fields import Bounds


@dataclass(frozen=True)
class F1Boxes(Measure):
    """Return F1 of the boxes above a score, against the labels, or the float model's boxes where there are none.

    Formula:
        2·TP / (2·TP + FP + FN); a box is right if it is of the same class and overlaps enough; 1 where neither
        side has any box

    Args:
        iou: least intersection over union, 0 to 1.
        score: boxes below it do not count.
        decode: `module:function` from the outputs to [boxes, 6]: x1, y1, x2, y2, score, class.
    """

    name: ClassVar[str] = "f1_boxes"

    iou: Annotated[float, Bounds(0.0, 1.0)] = 0.5
    score: float = 0.4
    decode: str = ""

    def row(self, seen: Observation) -> Any:
        """Return (true positives, false positives, false negatives)."""
        found = self._sure(detections(seen.outputs, self.decode, seen.where))
        if seen.label is not None:
            truth = true_boxes(seen.label, seen.where)
        else:
            reference = float_outputs(seen, self.name)
            truth = self._sure(detections(reference, self.decode, seen.where))[:, [0, 1, 2, 3, 5]]
            truth = truth[np.isfinite(truth).all(axis=1)]
        hits = int(matched(found, truth, self.iou).sum())
        return hits, len(found) - hits, len(truth) - hits

    def value(self, sums: Array) -> Array:
        """Return F1."""
        hits, wrong, missed = (np.asarray(sums[..., i], np.float64) for i in range(3))
        total = 2 * hits + wrong + missed
        return np.asarray(np.divide(2 * hits, total, out=np.ones_like(total), where=total > 0))

    def _sure(self, boxes: Array) -> Array:
        return np.asarray(boxes[boxes[:, 4] > self.score])
