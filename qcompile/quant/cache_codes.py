"""Codes of rows that are chosen at run time, for caches and attention over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LEAST_PEAK = 2.0**-100
"""Rows whose numbers are all smaller are codes of 0 or nearly so."""

LARGEST_CODE = 127
"""Of a row of a cache, and of a query."""

LARGEST_SHARE = (1 << 14) - 1
"""Code of the largest weight of a row: two planes of seven bits."""

SHARE_BLOCK = 1 << 10
"""Places whose weighted sum fits int32: SHARE_BLOCK · LARGEST_SHARE · LARGEST_CODE < 2^31."""


def row_codes(rows: Array, largest: int, *, signed: bool = True) -> tuple[Array, Array]:
    """Return the codes of rows, and what one step of each is worth.

    Formula:
        peak = max |row|, scale = peak · float32(1 / largest),
        q = rne(clamp(x · (largest / max(peak, 2^−100)), −largest or 0, largest)), all in float32.

    Args:
        rows: float32 [..., N].
        largest: code of the largest number of a row.
        signed: whether numbers below 0 have codes, too.

    Returns:
        float32 integers [..., N], and scales float32 [...].
    """
    real = np.abs(rows) if signed else rows
    peak = real.max(-1, initial=np.float32(0.0)).astype(np.float32)
    inverse = np.float32(largest) / np.maximum(peak, np.float32(LEAST_PEAK))
    low = np.float32(-largest if signed else 0)
    codes = np.rint(np.clip(rows * inverse[..., None], low, np.float32(largest)))
    return codes, (peak * np.float32(1.0 / largest)).astype(np.float32)
