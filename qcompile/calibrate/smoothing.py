"""How to divide the channels of an activation so that it and the weights behind it round well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_EXPONENTS = (0.25, 0.5, 0.75, 1.0)
_CLIPS = (1.0, 0.8, 0.6, 0.45, 0.3)
"""Parts of the activation's range that are tried: what calibration would choose is one of them, nearly."""


@dataclass(frozen=True)
class Smoothing:
    """Factors for the channels of an activation.

    Args:
        factors: s, float64 [channels], dimensionless.
        gain: squared error at the results without s over that with s.
    """

    factors: Array
    gain: float


def best_smoothing(rows: Array, weight: Array) -> Smoothing:
    """Return the factors with the least error.

    Args:
        rows: activations x, [rows, channels].
        weight: W of all layers that read them, [outputs, channels].
    """
    rows, weight = rows.astype(np.float64), weight.astype(np.float64)
    peaks = np.abs(rows).max(axis=0)
    weights = np.abs(weight).max(axis=0)
    exact = rows @ weight.T
    plain = np.ones(rows.shape[1])
    before = _error(rows, weight, exact)
    best, least = plain, before
    for exponent in _EXPONENTS:
        factors = _factors(peaks, weights, exponent)
        error = _error(rows / factors, weight * factors, exact)
        if error < least:
            best, least = factors, error
    return Smoothing(best, before / least if least > 0.0 else 1.0)


def _factors(peaks: Array, weights: Array, exponent: float) -> Array:
    alive = (peaks > 0) & (weights > 0)
    if not alive.any():
        return np.ones(len(peaks))
    logs = exponent * np.log(np.where(alive, peaks, 1.0)) - (1 - exponent) * np.log(np.where(alive, weights, 1.0))
    return np.exp(np.where(alive, logs - logs[alive].mean(), 0.0))


def _error(rows: Array, weight: Array, exact: Array) -> float:
    """Return the squared error of the results when both operands are rounded to 8 bits, for the best clipping."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-30) / 127
    rounded = np.rint(weight / scale) * scale
    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
    if high <= low:
        return 0.0
    errors = []
    for clip in _CLIPS:
        step = clip * (high - low) / 255
        codes = np.clip(np.rint(rows / step), np.rint(clip * low / step), np.rint(clip * high / step))
        errors.append(float(np.square((codes * step) @ rounded.T - exact).sum()))
    return min(errors)
