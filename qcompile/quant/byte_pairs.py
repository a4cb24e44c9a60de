"""Pairs of 8-bit weights whose products with unsigned bytes can be summed in 16 bits.

The sum of two products x₁w₁ + x₂w₂ with x ≤ 255 stays within int16 where the positive weights of a pair sum to at most
128 and the negative ones to at least -128.  A pair beyond that is crowded.  If its weights are even, the sum of the
products with half of them fits, which is then doubled where it is widened; so weights of crowded pairs are rounded to
even numbers where an instruction set multiplies pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

REACH = 128
"""Greatest magnitude of the sum of a pair's weights of one sign that needs no halving, LSB."""

MOST_LOSS_DB = 0.75
"""By how much the error of a layer may grow so that weights of crowded pairs are even, dB, unless told otherwise."""

Array = npt.NDArray[Any]


def crowded(weights: Array) -> npt.NDArray[np.bool_]:
    """Return which pairs of weights can leave 16 bits.

    Formula:
        Σ max(w, 0) > 128 or Σ max(-w, 0) > 128, over each two neighbours

    Args:
        weights: integers, LSB, the last axis of even length contiguous in memory.

    Returns:
        Of pairs: half as long in the last axis.
    """
    whole = weights.astype(np.int16)
    # Sums along an axis of two elements take many times as long as sums of two arrays.
    above, below = (np.maximum(x[..., ::2], 0) + np.maximum(x[..., 1::2], 0) for x in (whole, -whole))
    return np.asarray((above > REACH) | (below > REACH))


def halvable(weights: Array) -> npt.NDArray[np.bool_]:
    """Return which pairs of weights are crowded and have even weights only.

    Args:
        weights: as for `crowded`.
    """
    return crowded(weights) & ~_odd(weights)


def _odd(weights: Array) -> npt.NDArray[np.bool_]:
    """Return which pairs have an odd weight."""
    odd = (weights.astype(np.int16) & 1).astype(np.bool_)
    return np.asarray(odd[..., ::2] | odd[..., 1::2])


def needing_halves(weights: Array, run: int) -> npt.NDArray[np.bool_]:
    """Return which weights of crowded pairs would have to be even, but are not all.

    Args:
        weights: integers, LSB, [..., runs of weights].
        run: weights of a run, which are neighbours in memory; pairs are counted from the start of each.

    Returns:
        Of weights, true for both of a pair.
    """
    runs = weights.reshape(*weights.shape[:-1], -1, run)
    if run % 2:
        runs = np.pad(runs, [(0, 0)] * (runs.ndim - 1) + [(0, 1)])
    needing = np.repeat(crowded(runs) & _odd(runs), 2, axis=-1)
    return np.ascontiguousarray(needing[..., :run]).reshape(weights.shape)


def nearest_even(wanted: Array, integers: Array, run: int) -> Array:
    """Round the weights of crowded pairs to even numbers.

    Formula:
        2 · rne(w / 2), at most 126 in magnitude

    Args:
        wanted: real weights, LSB, of the shape of the integers.
        integers: the same, rounded to whole numbers, as for `needing_halves`.
        run: as for `needing_halves`.

    Returns:
        Integers of which no pair needs halves that it does not have.
    """
    found = np.array(integers, np.float64)
    while (odd := needing_halves(found, run)).any():
        found = np.where(odd, np.clip(2 * np.rint(wanted / 2), -126, 126), found)
    return found
