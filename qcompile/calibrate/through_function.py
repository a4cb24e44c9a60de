"""The range of a tensor that only a function reads: what counts is what its errors do to the function's result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompile.calibrate.distribution import Array, Distribution
from qcompile.calibrate.mse import cheapest_range

LEVELS = 256
_GRID = 1024


def is_steep(distribution: Distribution, function: Callable[[Array], Array]) -> bool:
    """Return whether a function is monotonic and nowhere flat on the values of a distribution.

    Formula:
        min f'(x) ≥ max f'(x) / 256

    Where a function is flat, cutting its operand costs little error, but all of the same sign: the sums behind it add
    it up, while the errors of rounding cancel. There the operand's own error is the better guide.
    """
    x = np.linspace(distribution.minimum, distribution.maximum, _GRID)
    slopes = np.diff(_at(function, x))
    return bool(slopes.min() > 0.0 and slopes.min() >= slopes.max() / LEVELS)


def range_through(distribution: Distribution, function: Callable[[Array], Array]) -> tuple[float, float]:
    """Return the range with the least squared error behind a function.

    Formula:
        (lo, hi) = argmin Σ_cells count · (f(x) − f(clip(step · rne(x / step), lo, hi)))², step = (hi − lo) / 255;
        where a cell is wider than a quarter step, the middle term of its rounding is f'(x)² · step² / 12

    So a leaky rectifier's operand keeps few codes for its less steep side.

    Args:
        distribution: of the operand.
        function: f, applied to float64 arrays.

    Returns:
        lo ≤ 0 ≤ hi, real units.
    """
    if not distribution.total or distribution.minimum >= distribution.maximum:
        return min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
    return cheapest_range(distribution, _CostBehind.of(distribution, function))


@dataclass(frozen=True, eq=False)
class _CostBehind:
    """Squared error behind a function, and the part of it that clipping causes."""

    x: Array
    width: Array
    counts: Array
    y: Array
    function: Callable[[Array], Array]

    @staticmethod
    def of(distribution: Distribution, function: Callable[[Array], Array]) -> _CostBehind:
        """Return the cost for a distribution and a function."""
        lower, upper = distribution.spans
        middle = (lower + upper) / 2
        counts = distribution.counts.astype(np.float64)
        return _CostBehind(middle, upper - lower, counts, _at(function, middle), function)

    def __call__(self, lo: float, hi: float) -> tuple[float, float]:
        """Return (total error, error of the clipped values), squared units of the result summed over all values."""
        step = (hi - lo) / (LEVELS - 1)
        if step <= 0.0:
            return float("inf"), float("inf")
        outside = (self.x < lo) | (self.x > hi)
        low, high = _at(self.function, np.array([lo, hi]))
        bound = np.where(self.x < lo, low, high)
        clipped = float(np.sum(np.where(outside, self.counts * (self.y - bound) ** 2, 0.0)))
        x, inside = self.x, ~outside
        near = np.clip(step * np.rint(x / step), lo, hi)
        slope = (_at(self.function, x + step / 2) - _at(self.function, x - step / 2)) / step
        exact = (_at(self.function, near) - self.y) ** 2 + slope**2 * self.width**2 / 12
        error = np.where(self.width < step / 4, exact, slope**2 * step**2 / 12)
        return clipped + float(np.sum(np.where(inside, self.counts * error, 0.0))), clipped


def _at(function: Callable[[Array], Array], x: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.asarray(function(x), np.float64), nan=0.0, posinf=1e30, neginf=-1e30)
