"""What one pass over the calibration samples shows of them: ranges, duplicates, constant ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FEW = 8
"""Fewer samples than this rarely show the ranges of real use."""

_ODD, _FEW_ODD = 20.0, 8
"""A sample is odd that reaches so many times as far as most, where no more than one in so many does."""


_LOOKED_AT = 16  # samples whose neighbours are compared: more tell no more
_SMALLEST = 16  # side of a picture, pixels
# Of differences three pixels apart to those of neighbours, along rows and along columns. Pictures, noise and mosaics
# have 1.0 to 3; where colours are interleaved as if they were pixels, 0.2 to 0.6 and 0.1 to 0.25.
_INTERLEAVED = (0.75, 0.5)


class SampleSummary:
    """Facts of a set of samples, gathered while they pass by.

    Attributes:
        count: samples seen.
        repeated: samples that are the same as an earlier one.
        constant: samples in which every input is a single value throughout.
        ranges: [lowest, highest] value of each real input.
    """

    def __init__(self) -> None:
        self.count = self.repeated = self.constant = 0
        self.ranges: dict[str, tuple[float, float]] = {}
        self._digests: set[bytes] = set()
        self._peaks: dict[str, list[float]] = {}
        self._neighbours: dict[str, Array] = {}

    @property
    def interleaved(self) -> list[str]:
        """Inputs of three planes whose values are in the order of pixels with three colours each."""
        sums = self._neighbours.items()
        return [n for n, (x3, x1, y3, y1) in sums if x3 < _INTERLEAVED[0] * x1 and y3 < _INTERLEAVED[1] * y1]

    @property
    def different(self) -> int:
        """Samples that are not the same as an earlier one."""
        return self.count - self.repeated

    def include(self, sample: Mapping[str, Array]) -> None:
        """Take one sample into account.

        Args:
            sample: checked: contiguous; NaN where a value is missing.
        """
        self.count += 1
        digest = hashlib.blake2b(digest_size=16)
        steady = []
        for name, array in sample.items():
            digest.update(array.data)
            if not array.size:
                continue
            lo, hi = float(np.fmin.reduce(array, None)), float(np.fmax.reduce(array, None))
            if np.isnan(lo):
                continue
            if array.size > 1:
                steady.append(lo == hi)
            if self.count <= _LOOKED_AT and _is_picture(array):
                self._neighbours[name] = self._neighbours.get(name, np.zeros(4)) + _differences(array)
            if array.dtype.kind == "f":
                low, high = self.ranges.get(name, (np.inf, -np.inf))
                self.ranges[name] = min(lo, low), max(hi, high)
                self._peaks.setdefault(name, []).append(max(-lo, hi))
        self.repeated += digest.digest() in self._digests
        self._digests.add(digest.digest())
        self.constant += bool(steady) and all(steady)

    @property
    def emptiness(self) -> str:
        """What makes the samples tell nothing of accuracy, in words; empty where they differ and vary."""
        if self.count == 1:
            return "one calibration sample"
        if self.different <= 1:
            return f"{self.count} calibration samples that are all the same"
        return f"{self.count} calibration samples that are all constant" if self.constant == self.count else ""

    def notes(self) -> list[str]:
        """Return what the user should know, one sentence each; nothing for a sound set."""
        found = []
        if self.different < FEW:
            several = "s" if self.different != 1 else ""
            found.append(
                f"only {self.different} calibration sample{several}: ranges may be too narrow for real use; "
                "32 to 128 are usual"
            )
        for name, peaks in self._peaks.items():
            usual = float(np.median(peaks))
            odd = [index for index, peak in enumerate(peaks) if peak > _ODD * usual]
            if usual > 0.0 and 0 < len(odd) <= max(1, len(peaks) // _FEW_ODD):
                found.append(
                    f"calibration sample {odd[0] + 1} reaches {peaks[odd[0]]:.3g} in '{name}', most others {usual:.3g} "
                    "at most: ranges stretch to it; was it preprocessed like the others?"
                )
        found += [
            f"the values in '{name}' repeat every third column and row, as in pictures of height, width, channels that"
            " are reshaped to channels, height, width: transpose them instead, image.transpose(2, 0, 1)"
            for name in self.interleaved
        ]
        if self.repeated:
            found.append(f"{self.repeated} of {self.count} calibration samples are the same as an earlier one")
        if self.constant:
            found.append(f"{self.constant} of {self.count} calibration samples are constant: blank images or silence?")
        return found


def _is_picture(array: Array) -> bool:
    """Return whether an array is [images, 3, height, width]."""
    return array.ndim == 4 and array.shape[1] == 3 and min(array.shape[2:]) >= _SMALLEST


def _differences(array: Array) -> Array:
    """Return mean differences of values in a row that are three apart and one apart, then those in a column."""
    real = array.astype(np.float32, copy=False)
    rows = real.swapaxes(2, 3)
    with np.errstate(over="ignore"):
        return np.array([np.abs(a[..., n:] - a[..., :-n]).mean(dtype=np.float64) for a in (real, rows) for n in (3, 1)])
