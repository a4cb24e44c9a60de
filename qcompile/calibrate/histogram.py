"""Streaming statistics of one tensor in bounded memory.

Calibration sees millions of values per sample and keeps none of them. Values are counted in cells that are
uniform in the logarithm: a cell holds the float32 numbers that agree in sign, exponent and the first seven
bits of the fraction. The cell of a value is then the upper half of its bits, which is the fastest binning
there is, and the grid never has to grow, so that one pass is enough, the counts do not depend on the order
of the samples, and one outlier (or a mask of -3e38) cannot blur the rest as it does with equal bins.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qcompile.calibrate.distribution import Distribution
from qcompile.calibrate.extremes import Extremes
from qcompile.errors import InternalError

Array = npt.NDArray[Any]

LIMIT = float(2**64)
"""Magnitudes from here on are no measurements but markers (masks such as -3.4e38 or -inf)."""

_FRACTION_BITS = 7
_CELLS = 1 << _FRACTION_BITS  # per octave
_ROWS = 1 << 9  # sign and exponent
_SIGN = _ROWS // 2
_WORTHWHILE = 1 << 14  # elements; of fewer, those of several samples are counted at once
_CHUNK = 1 << 17  # elements; with their indices and counts they stay in the L2 cache


class Seen(NamedTuple):
    """What `look` saw of one tensor in one sample.

    Args:
        counted: values but for markers.
        low: the smallest of them, real units; infinite where there are none.
        high: the largest of them, real units.
        rows: sign and exponent to counts of its cells.
        few: values that are not in there: small arrays of several samples are counted at once.
        markers: values of magnitude LIMIT or more, and NaN.
        marker: one of them, NaN above all.
    """

    counted: int
    low: float
    high: float
    rows: dict[int, Array]
    few: Array | None
    markers: int
    marker: float


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
        markers: values left out because their magnitude is LIMIT or more, infinities included, or because they are NaN.
        marker: one of them, NaN above all; 0 where there is none.
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
        """
        self.take(look(array, self.name))

    def take(self, seen: Seen) -> None:
        """Count the values of one sample that was looked at.

        Args:
            seen: by `look`.
        """
        self.samples += 1
        if seen.markers:
            self.markers += seen.markers
            self.marker = self.marker if math.isnan(self.marker) else seen.marker
        self.count += seen.counted
        self._add(seen.rows)
        if seen.few is not None:
            self._waiting.append(seen.few)
            self._waiting_size += seen.few.size
            if self._waiting_size >= _WORTHWHILE:
                self._sort_in_waiting()
        if seen.low <= seen.high:
            self._include(seen.low, seen.high)

    def _sort_in_waiting(self) -> None:
        if self._waiting:
            values, self._waiting, self._waiting_size = np.concatenate(self._waiting), [], 0
            self._add(_rows(_counts(values)))

    def _add(self, rows: dict[int, Array]) -> None:
        for row, counts in rows.items():
            if row in self._rows:
                self._rows[row] += counts
            else:
                self._rows[row] = counts

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


def look(array: Array, name: str) -> Seen:
    """Look at the values that a tensor takes in one sample; this takes long, and depends on them alone.

    Args:
        array: floating-point values in real units, any shape.
        name: of the tensor, for messages.
    """
    if array.dtype.kind != "f":
        raise InternalError(f"statistics of '{name}' were given {array.dtype}, not real values")
    values = np.ascontiguousarray(array, np.float32).reshape(-1)
    low, high, marker, markers, count = math.inf, -math.inf, 0.0, 0, 0
    counts, few = None, None
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        least, largest = float(chunk.min()), float(chunk.max())
        if not (least > -LIMIT and largest < LIMIT):
            kept = chunk[np.abs(chunk) < LIMIT]
            markers += chunk.size - kept.size
            if not math.isnan(marker):
                marker = least if not least > -LIMIT else largest
            chunk = kept
            least, largest = float(chunk.min(initial=np.inf)), float(chunk.max(initial=-np.inf))
        low, high, count = min(low, least), max(high, largest), count + chunk.size
        if chunk.size >= _WORTHWHILE:
            counts = _counts(chunk) if counts is None else counts + _counts(chunk)
        elif chunk.size:
            few = chunk.copy() if few is None else np.concatenate([few, chunk])
    return Seen(count, low, high, {} if counts is None else _rows(counts), few, markers, marker)


def _counts(values: Array) -> Array:
    """Return how many values each cell holds."""
    cells = (values.view(np.uint32) >> (23 - _FRACTION_BITS)).astype(np.intp)
    return np.bincount(cells, minlength=_ROWS * _CELLS)


def _rows(counts: Array) -> dict[int, Array]:
    """Return the counts of each sign and exponent that has any."""
    table = counts.reshape(_ROWS, _CELLS)
    return {row: table[row].astype(np.int64) for row in np.flatnonzero(table.any(axis=1)).tolist()}


def _bounds(exponent: int, cells: Array) -> tuple[Array, Array]:
    """Return the magnitudes between which the cells of an exponent lie; subnormals count as zero."""
    if exponent == 0:
        return np.zeros(cells.size), np.zeros(cells.size)
    first = (exponent * _CELLS + cells).astype(np.uint32)
    small = (first << (23 - _FRACTION_BITS)).view(np.float32).astype(np.float64)
    large = ((first + 1) << (23 - _FRACTION_BITS)).view(np.float32).astype(np.float64)
    return small, large
