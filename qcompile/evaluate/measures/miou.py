"""Mean intersection over union of segmentations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompile.errors import UsageError
from qcompile.evaluate.measure import (
    Array,
    Measure,
    Observation,
    float_outputs,
    output_name,
    quotient,
    reference_output,
)

_NONE = -1


@dataclass(frozen=True)
class Miou(Measure):
    """Return the mean over classes of the overlap of labels, one class index a pixel, and answers.

    Without labels it is the overlap with the float model's answers. The class of a pixel is that of the highest score;
    of equals the lower index counts. A pixel with a score that is NaN or infinite is in no class; −inf masks a class.

    Formula:
        mean over classes of |labels ∩ answers| / |labels ∪ answers|, pixels of all samples counted together; classes
        that are in neither do not count

    Args:
        output: the output with the scores; "" for the only one.
        axis: of the output's axes the one that counts the classes: 1, or -1 where channels come last.
        ignore: label of pixels that do not count, such as 255; -1 for none.
        classes: how many there are, where the output holds class indices in place of scores.

    Source:
        Everingham et al., "The PASCAL visual object classes challenge: a retrospective", 2015, section 3.
    """

    name: ClassVar[str] = "miou"

    output: str = ""
    axis: int = 1
    ignore: int = -1
    classes: int = 0

    def row(self, seen: Observation) -> Any:
        """Return the pixels of each class that labels and answers share, then those that are in either."""
        name = output_name(seen, self.output)
        answer, count = self._map(np.asarray(seen.outputs[name]), name)
        truth = self._truth(seen, name, answer.shape, count).reshape(-1)
        known = (truth != self.ignore) & (truth != _NONE)
        truth, given = truth[known], answer.reshape(-1)[known]
        same = np.bincount(truth[truth == given], minlength=count)
        both = np.bincount(truth, minlength=count) + np.bincount(given[given != _NONE], minlength=count)
        return tuple(np.concatenate([same, both - same]).astype(np.float64))

    def value(self, sums: Array) -> Array:
        """Return the mean over classes of shared pixels / pixels in either."""
        shared, either = np.split(np.asarray(sums, np.float64), 2, axis=-1)
        parts = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
        return quotient(np.stack([parts.sum(axis=-1), (either > 0).sum(axis=-1)], axis=-1))

    def _map(self, output: Array, name: str) -> tuple[Array, int]:
        """Return the class of each pixel, −1 for none, and how many classes there are."""
        if output.dtype.kind in "iu":
            if self.classes < 1 or not np.isin(output, range(self.classes)).all():
                hint = f"say how many there are: miou{{classes={int(output.max(initial=0)) + 1}}}"
                raise UsageError(f"output '{name}' holds class indices, not scores", hint=hint)
            return output.astype(np.int64), self.classes
        if not -output.ndim <= self.axis < output.ndim or output.shape[self.axis] < 2:
            raise UsageError(
                f"output '{name}' has shape {list(output.shape)}, not one score for each class on axis {self.axis}",
                hint="miou{axis=-1} is for channels that come last; for one channel write a module:function",
            )
        scores = np.moveaxis(output, self.axis, -1)
        unknown = np.isnan(scores) | np.isposinf(scores)
        none = unknown.any(axis=-1) | np.isneginf(scores).all(axis=-1)
        return np.where(none, _NONE, scores.argmax(axis=-1)), scores.shape[-1]

    def _truth(self, seen: Observation, name: str, shape: tuple[int, ...], count: int) -> Array:
        """Return the true class of each pixel."""
        if seen.label is None:
            float_outputs(seen, self.name)
            return self._map(reference_output(seen, name), name)[0]
        truth = np.asarray(seen.label)
        if truth.dtype.kind not in "iu" or _extents(truth.shape) != _extents(shape):
            raise UsageError(
                f"{seen.where}: label of {truth.dtype} {list(truth.shape)}, where output '{name}' has {list(shape)} "
                "pixels",
                hint="give integers, one class index a pixel, as array; miou{axis=-1} is for channels that come last",
            )
        truth = truth.astype(np.int64)
        strange = truth[(truth != self.ignore) & ((truth < 0) | (truth >= count))]
        if strange.size:
            hint = f"miou{{ignore={strange[0]}}} leaves these pixels out; classes count from 0"
            raise UsageError(f"{seen.where}: label {strange[0]} is not one of the {count} classes", hint=hint)
        return truth


def _extents(shape: tuple[int, ...]) -> list[int]:
    return [extent for extent in shape if extent != 1]
