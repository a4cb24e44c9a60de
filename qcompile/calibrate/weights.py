"""Scales of constant weights: symmetric, with zero_point 0."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qcompile.ir.graph import Value

Array = npt.NDArray[Any]

_FACTORS = np.concatenate([[1.0], np.linspace(0.98, 0.3, 35)])
_SMALLEST_PEAK = 2.0**-100
_CACHED = 2**15  # float64 values, 256 KiB


def weight_scales(
    weight: Array, axis: int | None = 0, *, method: Literal["max", "mse"] = "max", qmax: int = 127
) -> Array:
    """Choose the scale of a weight tensor, or one per index of an axis.

    Formula:
        max: scale = max|w| / qmax
        mse: scale = argmin over s = f · max|w| / qmax, 0.3 ≤ f ≤ 1, of Σ (w − s · clip(rne(w / s), ±qmax))²

    A channel of nothing but zeros has no scale of its own and takes the largest one of the others (1.0
    where all are zero).

    Args:
        weight: real values, any shape.
        axis: the axis with one scale per index, or None for one scale for all.
        method: "max" never clips; "mse" clips where that lowers the squared error.
        qmax: largest integer in use, LSB; the smallest is −qmax.

    Returns:
        float32 [channels], or [1] where axis is None; real units per LSB, positive.

    Raises:
        ValueError: the weights are not finite.

    Source:
        Krishnamoorthi, 2018, §3.1 (per channel, symmetric); Nagel et al., "A white paper on neural network
        quantization", 2021, §3.1 (MSE).
    """
    if not np.isfinite(weight).all():
        raise ValueError("weights are not finite")
    channels = weight[None] if axis is None else np.moveaxis(weight, axis, 0)
    rows = channels.reshape(channels.shape[0], -1).astype(np.float64)
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    dead = peaks < _SMALLEST_PEAK
    scales = np.where(dead, 1.0, peaks / qmax)
    if method == "mse":
        scales = _least_error(rows, scales, qmax)
    scales[dead] = scales[~dead].max() if not dead.all() else 1.0
    return np.asarray(scales, np.float32)


def _least_error(rows: Array, scales: Array, qmax: int) -> Array:
    """Return the scale of each row that `weight_scales` describes as mse, some rows at a time, which caches hold."""
    best: Array = scales.copy()
    count = max(1, _CACHED // max(1, rows.shape[1]))
    for start in range(0, len(rows), count):
        some = slice(start, start + count)
        least = np.full(len(scales[some]), np.inf)
        for factor in _FACTORS:
            trial = (scales[some] * factor)[:, None]
            rounded = rows[some] / trial
            np.clip(np.rint(rounded, out=rounded), -qmax, qmax, out=rounded)
            error = ((rows[some] - np.multiply(trial, rounded, out=rounded)) ** 2).sum(axis=1)
            better = error < least
            best[some][better], least[better] = trial[better, 0], error[better]
    return best


def raise_for_bias(scales: Array, bias: Array, input_scale: float, *, limit: int = 2**30) -> Array:
    """Enlarge the scales of channels whose bias would not fit its integer.

    A bias is stored as int32 at scale input_scale · scale. A nearly dead channel (weights of 1e-20, as
    folding a BatchNorm leaves behind) has so small a scale that its bias overflows; its weights can do with
    a larger one.

    Formula:
        scale' = max(scale, |bias| / (input_scale · limit))

    Args:
        scales: one per channel or a single one, real units per LSB.
        bias: float [channels], real units.
        input_scale: scale of the activations that the weights multiply, real units per LSB.
        limit: largest magnitude of the integer bias, LSB; the rest of int32 is left to the accumulator.

    Returns:
        float32, the shape of `scales`.
    """
    needed = np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * limit)
    if scales.size == 1:
        needed = np.atleast_1d(needed.max(initial=0.0))
    raised = np.maximum(np.asarray(scales, np.float64), needed)
    # Rounding to float32 may go down; the integer then exceeds the limit by less than one part in 2^23.
    return np.asarray(raised, np.float32)


def scales_of_bias(scales: Array, bias: Array, input_scale: float, *, steps: int = 2**20) -> Array:
    """Return the scales of weights that are all zero, for which any would do, so that the bias is not rounded off.

    Formula:
        scale' = |bias| / (input_scale · steps), scale where the bias is zero

    Args:
        scales: one per channel, real units per LSB.
        bias: float [channels], real units.
        input_scale: scale of the activations that the weights multiply, real units per LSB.
        steps: magnitude of the integer bias, LSB.

    Returns:
        float32 [channels].
    """
    own = np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * steps)
    return np.asarray(np.where(own > _SMALLEST_PEAK, own, scales), np.float32)


_GRID_TOLERANCE = 1e-4
_GLANCE = 64


def grid_scales(weight: Array, axis: int | None = 0, *, steps: int = 127) -> Array | None:
    """Find the scale of weights that are multiples of one, as those of a quantized model are.

    Formula:
        the largest scale = max|w| / k, k = 1 … steps, for which all w / scale are whole numbers

    Any such scale gives integers that stand for exactly the same weights as the one they were made with.

    Args:
        weight: real values, any shape.
        axis: the axis with one scale per index, or None for one scale for all.
        steps: largest integer, LSB.

    Returns:
        float32 [channels], or [1] where axis is None; None where some channel has no such scale.
    """
    channels = weight[None] if axis is None else np.moveaxis(weight, axis, 0)
    rows = channels.reshape(channels.shape[0], -1).astype(np.float64)
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    found = np.where(peaks == 0.0, 1.0, 0.0)
    for k in range(1, steps + 1):
        open_rows = np.flatnonzero(found == 0.0)
        if not open_rows.size:
            break
        # Most candidates fail within the first few weights.
        glance = _on_grid(rows[open_rows, :_GLANCE], peaks[open_rows] / k)
        likely = open_rows[glance]
        fits = likely[_on_grid(rows[likely], peaks[likely] / k)]
        found[fits] = peaks[fits] / k
    if not (found > 0.0).all():
        return None
    dead = peaks == 0.0
    found[dead] = found[~dead].max() if not dead.all() else 1.0
    return _reproducing(channels.reshape(rows.shape), found)


def stored_scales(value: Value, axis: int | None = 0, *, steps: int = 127) -> Array | None:
    """Return the scales that a quantized model stores a constant with.

    Args:
        value: constant.
        axis: the axis with one scale per index, or None for one scale for all.
        steps: largest integer, LSB.

    Returns:
        float32 [channels], or [1] where axis is None; None where it is not stored as integers, or not in this way.
    """
    data = value.constant()
    if value.steps is None or not data.size:
        return None
    whole = np.broadcast_to(value.steps, value.shape)
    parts = [part[None] if axis is None else np.moveaxis(part, axis, 0) for part in (data, whole)]
    rows, known = (part.reshape(len(part), -1) for part in parts)
    scales = np.asarray(known[:, 0], np.float32)
    if not ((known == scales[:, None]).all() and (scales > 0.0).all()):
        return None
    codes = rows / scales[:, None].astype(np.float64)
    largest = float(np.abs(codes).max())
    # Codes of 16 bits times a scale have more digits than float32.
    whole_numbers = (np.abs(codes - np.rint(codes)) < max(_GRID_TOLERANCE, largest * 2.0**-22)).all()
    return scales if whole_numbers and largest < steps + 0.5 else None


def constant_scales(value: Value, axis: int | None = 0, *, steps: int = 127) -> Array | None:
    """Return the scales of a constant of a quantized model: those it is stored with, else those it lies on.

    Args:
        value: constant.
        axis: the axis with one scale per index, or None for one scale for all.
        steps: largest integer, LSB.

    Returns:
        float32 [channels], or [1] where axis is None; None where some channel has no such scale.
    """
    stored = stored_scales(value, axis, steps=steps)
    return grid_scales(value.constant(), axis, steps=steps) if stored is None else stored


def _reproducing(rows: Array, found: Array) -> Array:
    """Return the float32 scales next to those found whose multiples are the very weights, if there are such."""
    scales = found.astype(np.float32)
    codes = np.rint(rows / found[:, None]).astype(np.float32)
    best = scales.copy()
    for limit in (np.float32(np.inf), np.float32(0)):
        off = np.flatnonzero((codes * best[:, None] != rows).any(axis=1))
        beside = np.nextafter(scales[off], limit)
        exact = (codes[off] * beside[:, None] == rows[off]).all(axis=1)
        best[off[exact]] = beside[exact]
    return np.asarray(best)


_BIAS_TOLERANCE = 0.05


def refine_for_bias(scales: Array, weight: Array, bias: Array, input_scale: float, *, steps: int = 127) -> Array:
    """Make the scales of weights on a grid finer where the bias is no multiple of theirs.

    Few weights, or small ones, lie on coarser grids than the one they were trained with (a single one on that of its
    own size); the bias, in steps of input_scale · scale, would be rounded to multiples of that.

    Formula:
        scale' = scale / (steps // max |w / scale|), by which the weights stay whole numbers

    Args:
        scales: one per channel, such that weight / scale are whole numbers.
        weight: real values, channels first.
        bias: float [channels], real units.
        input_scale: scale of the activations that the weights multiply, real units per LSB.
        steps: largest integer of a weight, LSB.

    Returns:
        float32 [channels].
    """
    rows = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
    peaks = np.rint(rows.max(axis=1, initial=0.0) / scales)
    finer = np.maximum(steps // np.maximum(peaks, 1.0), 1.0)
    parts = np.asarray(bias, np.float64) / (float(input_scale) * np.asarray(scales, np.float64))
    # A large bias is a whole number but for what float32 leaves of it.
    between = np.abs(parts - np.rint(parts)) > np.maximum(_BIAS_TOLERANCE, np.abs(parts) * 2.0**-22)
    return np.asarray(np.where(between, scales / finer, scales), np.float32)


def _on_grid(rows: Array, scales: Array) -> Array:
    ratio = rows / scales[:, None]
    return np.asarray((np.abs(ratio - np.rint(ratio)) < _GRID_TOLERANCE).all(axis=1))
