"""Measures of how close two sets of numbers are, in NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sqnr_db(reference: Array, actual: Array) -> float:
    """Return the signal-to-quantization-noise ratio.

    Formula:
        10 · log₁₀(Σ r² / Σ (r − a)²)

    Args:
        reference: exact values r, any shape, any unit.
        actual: approximate values a, the same shape and unit.

    Returns:
        Decibels; +inf where both are equal, −inf where only the reference is all zero.

    Raises:
        ValueError: the shapes differ.
    """
    r, a = _pair(reference, actual)
    noise = float(np.sum((r - a) ** 2))
    return _decibel(float(np.sum(r**2)), noise)


def psnr_db(reference: Array, actual: Array, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio, the usual measure of images.

    Formula:
        10 · log₁₀(peak² / mean((r − a)²))

    Args:
        reference: exact values r, any shape.
        actual: approximate values a, the same shape and unit.
        peak: largest possible value, the unit of r: 1.0 or 255.

    Returns:
        Decibels; +inf where both are equal.

    Raises:
        ValueError: the shapes differ, or there is no value.
    """
    r, a = _pair(reference, actual)
    if r.size == 0:
        raise ValueError("psnr_db needs at least one value")
    return _decibel(peak * peak, float(np.mean((r - a) ** 2)))


def cosine(reference: Array, actual: Array) -> float:
    """Return the cosine of the angle between two tensors taken as vectors.

    Formula:
        Σ r·a / (‖r‖ · ‖a‖)

    Args:
        reference: r, any shape.
        actual: a, the same shape.

    Returns:
        −1 to 1; 1 where both are all zero, 0 where only one is.

    Raises:
        ValueError: the shapes differ.
    """
    r, a = _pair(reference, actual)
    # Scaling by the peak keeps the squares of very small and very large values in range.
    r_peak, a_peak = float(np.abs(r).max(initial=0.0)), float(np.abs(a).max(initial=0.0))
    if r_peak == 0.0 or a_peak == 0.0:
        return 1.0 if r_peak == a_peak else 0.0
    r, a = r / r_peak, a / a_peak
    value = float(np.sum(r * a)) / math.sqrt(float(np.sum(r**2)) * float(np.sum(a**2)))
    return min(1.0, max(-1.0, value))


def max_absolute_error(reference: Array, actual: Array) -> float:
    """Return the largest deviation.

    Formula:
        max |r − a|

    Args:
        reference: r, any shape.
        actual: a, the same shape and unit.

    Returns:
        In the unit of r; 0 for empty arrays.

    Raises:
        ValueError: the shapes differ.
    """
    r, a = _pair(reference, actual)
    return float(np.abs(r - a).max(initial=0.0))


def max_relative_error(reference: Array, actual: Array) -> float:
    """Return the largest deviation relative to the largest reference value.

    Formula:
        max |r − a| / max |r|

    Args:
        reference: r, any shape.
        actual: a, the same shape and unit.

    Returns:
        A ratio; 0 where both are equal, +inf where only the reference is all zero.

    Raises:
        ValueError: the shapes differ.
    """
    error = max_absolute_error(reference, actual)
    peak = float(np.abs(np.asarray(reference, np.float64)).max(initial=0.0))
    if error == 0.0:
        return 0.0
    return error / peak if peak > 0.0 else math.inf


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


def top_k_accuracy(scores: Array, labels: Sequence[int] | Array, k: int = 1) -> float:
    """Return the share of samples whose label is among the k highest scores.

    Formula:
        mean over samples of [label ∈ top_k(scores)]

    Args:
        scores: [samples, classes].
        labels: class index of each sample, [samples].
        k: how many guesses count.

    Raises:
        ValueError: there is no sample, or not one label for each.
    """
    wanted = np.asarray(labels)
    if scores.ndim != 2 or wanted.shape != scores.shape[:1] or wanted.size == 0:
        raise ValueError(f"scores {scores.shape} and labels {wanted.shape} do not belong together")
    return float(np.mean((top_k(scores, k) == wanted[:, None]).any(axis=1)))


def agreement(reference: Array, actual: Array) -> float:
    """Return the share of samples for which two models name the same best class.

    Args:
        reference: scores of one model, [samples, classes].
        actual: scores of the other, the same shape.

    Raises:
        ValueError: the shapes differ, or there is no sample.
    """
    if reference.shape != actual.shape or reference.ndim != 2 or reference.shape[0] == 0:
        raise ValueError(f"scores {reference.shape} and {actual.shape} do not belong together")
    return float(np.mean(top_k(reference, 1) == top_k(actual, 1)))


def _pair(reference: Array, actual: Array) -> tuple[Array, Array]:
    if np.shape(reference) != np.shape(actual):
        raise ValueError(f"shapes differ: {np.shape(reference)} and {np.shape(actual)}")
    return np.asarray(reference, np.float64), np.asarray(actual, np.float64)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    if signal == 0.0:
        return -math.inf
    return 10.0 * math.log10(signal / noise)
