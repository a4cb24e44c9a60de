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

    @property
    def different(self) -> int:
        """Samples that are not the same as an earlier one."""
        return self.count - self.repeated

    def include(self, sample: Mapping[str, Array]) -> None:
        """Take one sample into account.

        Args:
            sample: checked: finite, contiguous.
        """
        self.count += 1
        digest = hashlib.blake2b(digest_size=16)
        steady = []
        for name, array in sample.items():
            digest.update(array.data)
            if not array.size:
                continue
            lo, hi = float(array.min()), float(array.max())
            if array.size > 1:
                steady.append(lo == hi)
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
        if self.repeated:
            found.append(f"{self.repeated} of {self.count} calibration samples are the same as an earlier one")
        if self.constant:
            found.append(f"{self.constant} of {self.count} calibration samples are constant: blank images or silence?")
        return found
