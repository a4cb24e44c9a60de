"""Measures of how close two sets of numbers are, in NumPy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def psnr_db(reference: Array, actual: Array, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio, the usual measure of images.

    Formula:
        10 · log₁₀(peak² / mean((r − a)²))

    Args:
        reference: exact values r, any shape.
        actual: approximate values a, the same shape and unit.
        peak: largest possible value, the unit of r: 1.0 or 255.

    Returns:
        Decibels; +inf where both are equal, NaN where no r is finite. Other values of r do not count; where only a is
        not finite, it is wrong by the peak.

    Raises:
        ValueError: the shapes differ, or there is no value.
    """
    r, a = _pair(reference, actual)
    if r.size == 0:
        raise ValueError("psnr_db needs at least one value")
    known = np.isfinite(r)
    if not known.any():
        return math.nan
    r, a = r[known], a[known]
    noise = float(np.mean((r - np.where(np.isfinite(a), a, r + peak)) ** 2))
    return 10.0 * math.log10(peak * peak / noise) if noise else math.inf


def cosine(reference: Array, actual: Array) -> float:
    """Return the cosine of the angle between two tensors taken as vectors.

    Formula:
        Σ r·a / (‖r‖ · ‖a‖)

    Args:
        reference: r, any shape.
        actual: a, the same shape.

    Returns:
        −1 to 1; 1 where both are all zero, 0 where only one is; NaN where there are values and no r is finite. Other
        values of r do not count; where only a is not finite, it is taken for the opposite of r.

    Raises:
        ValueError: the shapes differ.
    """
    r, a = _pair(reference, actual)
    known = np.isfinite(r)
    if r.size and not known.any():
        return math.nan
    r, a = r[known], a[known]
    a = np.where(np.isfinite(a), a, np.where(r != 0, -r, np.abs(r).max(initial=0.0) or 1.0))
    # Scaling by the peak keeps the squares of very small and very large values in range.
    r_peak, a_peak = float(np.abs(r).max(initial=0.0)), float(np.abs(a).max(initial=0.0))
    if r_peak == 0.0 or a_peak == 0.0:
        return 1.0 if r_peak == a_peak else 0.0
    r, a = r / r_peak, a / a_peak
    value = float(np.sum(r * a)) / math.sqrt(float(np.sum(r**2)) * float(np.sum(a**2)))
    return min(1.0, max(-1.0, value))


def top_k(scores: Array, k: int = 5) -> npt.NDArray[np.intp]:
    """Return the classes with the highest scores, best first; of equals the lower index comes first.

    Args:
        scores: [..., classes], any unit.
        k: how many; fewer are returned where there are fewer classes.

    Returns:
        Class indices, [..., min(k, classes)].
    """
    order = np.argsort(-np.asarray(scores, np.float64), axis=-1, kind="stable")
    return np.asarray(order[..., :k], np.intp)


def _pair(reference: Array, actual: Array) -> tuple[Array, Array]:
    if np.shape(reference) != np.shape(actual):
        raise ValueError(f"shapes differ: {np.shape(reference)} and {np.shape(actual)}")
    return np.asarray(reference, np.float64), np.asarray(actual, np.float64)
