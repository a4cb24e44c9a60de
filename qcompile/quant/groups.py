"""Weights in groups of a row: one scale, and where it helps one zero point, for a few neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BLOCK = 1 << 21
"""Elements worked on at a time."""

_FACTORS = {
    8: (1.0, 128.0 / 127.0),
    4: tuple(float(f) for f in np.linspace(0.7, 1.18, 17)),
    2: tuple(float(f) for f in np.linspace(0.3, 1.3, 21)),
}
"""Scales to try, relative to the one that the largest weight of a group gives."""

_SMALLEST_HALF = 2.0**-14
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class GroupedWeights:
    """Integers with their groups' parameters: real = scale · (q − zero_point).

    Args:
        codes: q, int8 [N, K].
        scale: float16 where its range suffices, else float32 [N, G]; may be negative, or 0 for a group of zeros.
        zero_point: int8 [N, G], or None where `centre` is that of all groups.
        centre: the zero point of all groups; −0.5 for one bit.
    """

    codes: npt.NDArray[np.int8]
    scale: Array
    zero_point: npt.NDArray[np.int8] | None
    centre: float


def quantize_groups(weight: Array, bits: int, group: int, *, symmetric: bool = True) -> GroupedWeights:
    """Round the rows of a matrix to integers of a few bits, one scale for every `group` neighbours.

    Formula:
        scale, zero_point = argmin Σ (w − scale · (q − zero_point))² over scales around the one of the largest weight
        (the end of the integers' range that has one more lies where that weight is), then scale = Σ w·q / Σ q².
        Two bits are ternary, q ∈ {−1, 0, 1}; one bit is the sign: scale = 2 · mean |w|, w ≈ scale · (q + ½).

    Args:
        weight: float [N, K].
        bits: 1, 2, 4 or 8.
        group: neighbours that share a scale; the last group of a row may be shorter.
        symmetric: no zero point; else one for each group. Of 1 and 2 bits there is only the symmetric form.

    Raises:
        ValueError: the weights are not finite.

    Source:
        Li, Zhang and Liu, "Ternary weight networks", 2016; Rastegari et al., "XNOR-Net", 2016, §3.1 (one bit).
    """
    if not np.isfinite(weight).all():
        raise ValueError("weights are not finite")
    rows, inner = weight.shape
    step = max(1, _BLOCK // max(1, inner))
    parts = [_block(weight[n : n + step], bits, group, symmetric) for n in range(0, rows, step)]
    codes, scale = (np.concatenate([part[n] for part in parts]) for n in (0, 1))
    zeros = [part[2] for part in parts if part[2] is not None]
    if scale.dtype != np.float16:
        scale = scale.astype(np.float32)
    return GroupedWeights(codes[:, :inner], scale, np.concatenate(zeros) if zeros else None, -0.5 if bits == 1 else 0.0)


def _block(weight: Array, bits: int, group: int, symmetric: bool) -> tuple[Array, Array, Array | None]:
    rows, inner = weight.shape
    # The last weight is repeated: it changes neither a group's range nor, by much, where the least error lies.
    padded = np.pad(weight.astype(np.float32), ((0, 0), (0, -inner % group)), mode="edge")
    groups = padded.reshape(rows, -1, group)
    if bits == 1:
        scale = _stored(2.0 * np.abs(groups).mean(axis=2))
        return np.where(groups >= 0, 0, -1).astype(np.int8).reshape(rows, -1), scale, None
    if not symmetric and bits > 2:
        return _asymmetric(groups, bits)
    low, high = (-1, 1) if bits == 2 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    base = extreme / np.float32(low)
    best, least = base, np.full(base.shape, np.inf, np.float32)
    for factor in _FACTORS[bits]:
        scale = base * np.float32(factor)
        codes = _rounded(groups, scale, low, high)
        error = np.square(codes * scale[:, :, None] - groups).sum(axis=2)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    codes = _rounded(groups, best, low, high)
    power = np.square(codes).sum(axis=2)
    fitted = np.divide((groups * codes).sum(axis=2), power, out=np.zeros_like(best), where=power > 0)
    scale = _stored(fitted)
    codes = _rounded(groups, scale.astype(np.float32), low, high)
    return codes.astype(np.int8).reshape(rows, -1), scale, None


def _asymmetric(groups: Array, bits: int) -> tuple[Array, Array, Array | None]:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    bottom, top = groups.min(axis=2), groups.max(axis=2)
    best = _with_zero(bottom, top, 1.0, low, high)
    least = np.full(bottom.shape, np.inf, np.float32)
    for factor in [f for f in _FACTORS[bits] if f <= 1.0]:
        scale, zero = _with_zero(bottom, top, factor, low, high)
        codes = _rounded(groups, scale, low, high, zero)
        error = np.square((codes - zero[:, :, None]) * scale[:, :, None] - groups).sum(axis=2)
        better = error < least
        best = (np.where(better, scale, best[0]), np.where(better, zero, best[1]))
        least = np.minimum(error, least)
    scale = _stored(best[0])
    codes = _rounded(groups, scale.astype(np.float32), low, high, best[1])
    return codes.astype(np.int8).reshape(len(groups), -1), scale, best[1].astype(np.int8)


def _with_zero(bottom: Array, top: Array, factor: float, low: int, high: int) -> tuple[Array, Array]:
    """Return scale and zero point of ranges shrunk by a factor around their middle."""
    middle, half = (top + bottom) / 2, (top - bottom) / 2 * np.float32(factor)
    # Where a group's weights are all the same, a range from zero to them has them exactly.
    flat = half <= 0
    first = np.where(flat, np.minimum(bottom, 0), middle - half)
    last = np.where(flat, np.maximum(top, 0), middle + half)
    # A zero point is an int8, so a range far from zero is widened towards it.
    first = np.minimum(first, 0) if low == -128 else first
    reach = np.maximum(-first / np.float32(127 - low), first / np.float32(max(128 + low, 1)))
    scale = np.maximum((last - first) / np.float32(high - low), reach).astype(np.float32)
    zero = np.divide(first, scale, out=np.zeros_like(scale), where=scale != 0)
    return scale, np.clip(np.rint(low - zero), -128, 127).astype(np.float32)


def _rounded(groups: Array, scale: Array, low: int, high: int, zero: Array | None = None) -> Array:
    """Return q, float32, of the same shape as the groups; 0 where the scale is 0."""
    inverse = np.divide(np.float32(1.0), scale, out=np.zeros_like(scale, np.float32), where=scale != 0)
    codes = np.rint(groups * inverse[:, :, None])
    if zero is not None:
        codes += zero[:, :, None]
    return np.asarray(np.clip(codes, low, high, out=codes))


def _stored(scale: Array) -> Array:
    """Return scales as float16 where all of them have its full precision, else as float32."""
    sizes = np.abs(scale[scale != 0])
    fits = sizes.size == 0 or (sizes.min() >= _SMALLEST_HALF and sizes.max() <= _LARGEST_HALF)
    return scale.astype(np.float16 if fits else np.float32)
