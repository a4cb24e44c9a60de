"""Reading between the elements of an image: what GridSample and RoiAlign share.

The formulas are written once, over a builder: the lowering's, or `ArrayBuilder`, which computes them on arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

REACH = 2.0**20
"""Coordinates are kept within this many elements, so that they fit an integer."""

_CUBIC = -0.75


class ArrayBuilder:
    """The part of the lowering's expression builder that sampling needs, on NumPy arrays."""

    f32, i32 = staticmethod(np.float32), staticmethod(np.int32)
    floor, abs = staticmethod(np.floor), staticmethod(np.abs)
    min, max = staticmethod(np.minimum), staticmethod(np.maximum)
    select, and_ = staticmethod(np.where), staticmethod(np.logical_and)

    def cast(self, x: Any, dtype: str) -> Any:
        """Convert numerically."""
        return np.asarray(x).astype(dtype)

    def round_clamp(self, x: Any, low: Any, high: Any) -> Any:
        """Return int32(rne(clamp(x)))."""
        return np.rint(np.fmin(np.fmax(x, low), high)).astype(np.int32)


def floor_index(e: Any, x: Any) -> tuple[Any, Any]:
    """Return ⌊x⌋ as int32, and the fraction x − ⌊x⌋.

    Args:
        e: builder.
        x: coordinate, elements.
    """
    bounded = e.min(e.max(x, e.f32(-REACH)), e.f32(REACH))
    below = e.floor(bounded)
    return e.cast(below, "int32"), bounded - below


def reflect(e: Any, x: Any, low: float, high: float) -> Any:
    """Return a coordinate mirrored at two bounds until it lies between them."""
    span = high - low
    if span <= 0:
        return x * e.f32(0.0)
    distance = e.abs(x - e.f32(low))
    rest = distance - e.floor(distance / e.f32(2 * span)) * e.f32(2 * span)
    return e.select(rest > e.f32(span), e.f32(2 * span) - rest, rest) + e.f32(low)


def cubic_weights(e: Any, t: Any) -> list[Any]:
    """Return the weights of the four elements around a fraction.

    Source:
        Keys 1981, with a = −0.75.
    """
    a, one = _CUBIC, e.f32(1.0)

    def outer(d: Any) -> Any:
        return ((d * e.f32(a) - e.f32(5 * a)) * d + e.f32(8 * a)) * d - e.f32(4 * a)

    def inner(d: Any) -> Any:
        return (d * e.f32(a + 2) - e.f32(a + 3)) * d * d + one

    return [outer(t + one), inner(t), inner(one - t), outer(e.f32(2.0) - t)]
