"""Weights of which many are zero, stored without the zeros: one bit for each unit says whether it is there."""

from __future__ import annotations

import numpy as np

_UNITS = (4, 1)
"""Bytes of a unit: a float, or an 8-bit integer."""

_LEAST_SHARE = 0.25
_LEAST_BYTES = 4096


def squeezed(weights: bytes) -> tuple[int, bytes]:
    """Return how weights are best stored: bytes of a unit (0 for as they are), and what is stored.

    Stored are ⌈n / 8⌉ bytes with a bit for each of n units, from the lowest bit upwards, then the units that are not
    zero, in order. At create the runtime expands them into memory of its own, so a quarter at least has to be saved.

    Args:
        weights: all constants of a program; a last unit that is cut off counts as one.
    """
    best = (0, weights)
    for unit in _UNITS:
        units = np.frombuffer(weights + bytes(-len(weights) % unit), np.uint8).reshape(-1, unit)
        there = units.any(axis=1)
        stored = np.packbits(there, bitorder="little").tobytes() + units[there].tobytes()
        if len(stored) < len(best[1]):
            best = (unit, stored)
    saved = len(weights) - len(best[1])
    return best if saved >= max(_LEAST_BYTES, _LEAST_SHARE * len(weights)) else (0, weights)
