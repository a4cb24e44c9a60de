"""Streaming statistics of one tensor in bounded memory.

Calibration sees millions of values per sample and keeps none of them. Values are counted in cells that are
uniform in the logarithm: a cell holds the float32 numbers that agree in sign, exponent and the first seven
bits of the fraction. The cell of a value is then the upper half of its bits, which is the fastest binning
there is, and the grid never has to grow, so that one pass is enough, the counts do not depend on the order
of the samples, and one outlier (or a mask of -3e38) cannot blur the rest as it does with equal bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.extremes import Extremes
from qcompile.errors import CalibrationError, InternalError

Array = npt.NDArray[Any]

LIMIT = float(2**64)
"""Magnitudes from here on are no measurements but markers (masks such as -3.4e38 or -inf)."""

_FRACTION_BITS = 7
_CELLS = 1 << _FRACTION_BITS  # per octave
_ROWS = 1 << 9  # sign and exponent
_SIGN = _ROWS // 2
_WORTHWHILE = 1 << 14  # elements; of fewer, those of several samples are counted at once
_CHUNK = 1 << 17  # elements; with their indices and counts they stay in the L2 cache


class TensorStatistics:
    """Minimum, maximum and histogram of all values that one tensor takes.

    Memory is bounded by 1 KiB per octave and sign in use, and 64 KiB of values not yet counted: 455 KiB at the very
    most, about 40 KiB as a rule.

    Args:
        name: the tensor, for messages.
        momentum: weight of the past in the moving averages of minimum and maximum, 0 to 1.

    Attributes:
        samples: number of arrays seen.
        count: number of values in the histogram.
        markers: values left out because their magnitude is LIMIT or more, infinities included.
        marker: one of them; 0 where there is none.
        minimum: smallest value, real units, exact.
        maximum: largest value, real units, exact.
        moving_minimum: moving average of the minima in sample order, real units.
        moving_maximum: moving average of the maxima in sample order, real units.
        lows: the negated minima of the samples.
        highs: the maxima of the samples.
    """

    def __init__(self, name: str, *, momentum: float = 0.9) -> None:
        self.name = name
        self.momentum = momentum
        self.samples = 0
        self.count = 0
        self.markers = 0
        self.marker = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.moving_minimum = math.nan
        self.moving_maximum = math.nan
        self.lows, self.highs = Extremes(), Extremes()
        self._rows: dict[int, Array] = {}
        self._waiting: list[Array] = []
        self._waiting_size = 0
        self._mark: tuple[int, float | None] | None = None

    def update(self, array: Array) -> None:
        """Count the values of one sample.

        Args:
            array: floating-point values in real units, any shape.

        Raises:
            CalibrationError: the array holds NaN.
        """
        if array.dtype.kind != "f":
            raise InternalError(f"statistics of '{self.name}' were given {array.dtype}, not real values")
        values = np.ascontiguousarray(array, np.float32).reshape(-1)
        self.samples += 1
        low, high = math.inf, -math.inf
        for chunk, least, largest in self._chunks(values):
            low, high = min(low, least), max(high, largest)
            self._count(chunk)
        if low > high:
            return
        self._include(low, high)

    def _chunks(self, values: Array) -> Iterator[tuple[Array, float, float]]:
        """Yield the values but for markers, some at a time, with the smallest and the largest of them."""
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            low, high = float(chunk.min()), float(chunk.max())
            if math.isnan(low) or math.isnan(high):
                raise CalibrationError(
                    f"tensor '{self.name}' is NaN for calibration sample {self.samples}",
                    hint="run the float model on this sample: it has no valid result for it",
                )
            if low <= -LIMIT or high >= LIMIT:
                kept = chunk[np.abs(chunk) < LIMIT]
                self.markers += chunk.size - kept.size
                self.marker = low if low <= -LIMIT else high
                chunk = kept
                low, high = float(chunk.min(initial=np.inf)), float(chunk.max(initial=-np.inf))
            if chunk.size:
                yield chunk, low, high

    def _count(self, chunk: Array) -> None:
        """Count values, small arrays together: looking through all cells takes long."""
        self.count += chunk.size
        if chunk.size >= _WORTHWHILE:
            self._sort_in(chunk)
            return
        self._waiting.append(chunk.copy())
        self._waiting_size += chunk.size
        if self._waiting_size >= _WORTHWHILE:
            self._sort_in_waiting()

    def _sort_in_waiting(self) -> None:
        if self._waiting:
            chunk, self._waiting, self._waiting_size = np.concatenate(self._waiting), [], 0
            self._sort_in(chunk)

    def _sort_in(self, chunk: Array) -> None:
        cells = (chunk.view(np.uint32) >> (23 - _FRACTION_BITS)).astype(np.intp)
        counts = np.bincount(cells, minlength=_ROWS * _CELLS).reshape(_ROWS, _CELLS)
        for row in np.flatnonzero(counts.any(axis=1)).tolist():
            if row in self._rows:
                self._rows[row] += counts[row]
            else:
                self._rows[row] = counts[row].astype(np.int64)

    def _include(self, low: float, high: float) -> None:
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.lows.add(-low)
        self.highs.add(high)
        if math.isnan(self.moving_minimum):
            self.moving_minimum, self.moving_maximum = low, high
        else:
            self.moving_minimum += (1 - self.momentum) * (low - self.moving_minimum)
            self.moving_maximum += (1 - self.momentum) * (high - self.moving_maximum)

    @property
    def mark(self) -> float | None:
        """The value that marks something rather than measures it, one of the markers or a sentinel; else None."""
        if self.markers:
            return self.marker
        if self._mark is None or self._mark[0] != self.samples:
            self._mark = self.samples, self.distribution().sentinel()
        return self._mark[1]

    def distribution(self) -> Distribution:
        """Return the histogram as cells in ascending order of value."""
        if not self.count:
            empty = np.zeros(0)
            return Distribution(empty, empty, empty.astype(np.int64), 0.0, 0.0, 0.0, 0.0)
        self._sort_in_waiting()
        lower, upper, counts = [], [], []
        # Ascending value: negative rows from the largest exponent down, then positive rows upwards.
        for row in sorted(self._rows, key=lambda r: r if r < _SIGN else _SIGN - 1 - r):
            used = np.flatnonzero(self._rows[row])
            small, large = _bounds(row % _SIGN, used)
            amounts = self._rows[row][used]
            if row >= _SIGN:
                small, large, amounts = -large[::-1], -small[::-1], amounts[::-1]
            lower.append(small)
            upper.append(large)
            counts.append(amounts)
        bounds = np.concatenate(lower) + 0.0, np.concatenate(upper) + 0.0
        totals = np.concatenate(counts)
        # Zero, negative zero and the subnormals of both signs are one cell; they lie side by side.
        zero = np.flatnonzero((bounds[0] == 0) & (bounds[1] == 0))
        if zero.size > 1:
            totals[zero[0]] = totals[zero].sum()
            bounds = np.delete(bounds[0], zero[1:]), np.delete(bounds[1], zero[1:])
            totals = np.delete(totals, zero[1:])
        extremes = (self.minimum, self.maximum, self.moving_minimum, self.moving_maximum)
        return Distribution(*bounds, totals, *extremes)


def _bounds(exponent: int, cells: Array) -> tuple[Array, Array]:
    """Return the magnitudes between which the cells of an exponent lie; subnormals count as zero."""
    if exponent == 0:
        return np.zeros(cells.size), np.zeros(cells.size)
    first = (exponent * _CELLS + cells).astype(np.uint32)
    small = (first << (23 - _FRACTION_BITS)).view(np.float32).astype(np.float64)
    large = ((first + 1) << (23 - _FRACTION_BITS)).view(np.float32).astype(np.float64)
    return small, large
