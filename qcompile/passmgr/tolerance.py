"""How far a pass may change what a graph computes; every pass declares one of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Tolerance(ABC):
    """A bound on the difference of one output before and after a pass."""

    @abstractmethod
    def violation(self, before: Array, after: Array, lsb: float | None = None) -> str | None:
        """Return what breaks the bound, or None if nothing does.

        Args:
            before: the output before the pass: real values (quantized ones dequantized), or integers.
            after: the output after the pass, of the same shape.
            lsb: step of the output after the pass, real units per LSB; None where it is not quantized.
        """


@dataclass(frozen=True)
class Exact(Tolerance):
    """Every element is equal, bit for bit (NaN equals NaN)."""

    def violation(self, before: Array, after: Array, lsb: float | None = None) -> str | None:
        """See `Tolerance.violation`."""
        return _worst(before, after, np.zeros(()), str(self))

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class AllClose(Tolerance):
    """|after − before| ≤ atol + rtol · max|before|, the maximum over the whole output.

    The error of a sum grows with its largest terms and not with its result, which may be close to zero; so
    the relative part is one of the output's peak.

    Args:
        rtol: relative to the largest finite magnitude of the output.
        atol: absolute, real units.
    """

    rtol: float = 1e-5
    atol: float = 1e-6

    def violation(self, before: Array, after: Array, lsb: float | None = None) -> str | None:
        """See `Tolerance.violation`."""
        finite = np.abs(before[np.isfinite(before)])
        peak = float(finite.max()) if finite.size else 0.0
        return _worst(before, after, np.asarray(self.atol + self.rtol * peak), str(self))

    def __str__(self) -> str:
        return f"within {self.rtol:g} of the largest value plus {self.atol:g}"


@dataclass(frozen=True)
class MaxLsb(Tolerance):
    """|after − before| ≤ n LSB of the output; outputs that are not quantized must be equal.

    Args:
        n: LSB.
    """

    n: int = 1

    def violation(self, before: Array, after: Array, lsb: float | None = None) -> str | None:
        """See `Tolerance.violation`."""
        # A thousandth of a step is room for the float32 product of dequantize, and far from the next integer.
        return _worst(before, after, np.asarray((self.n + 1e-3) * (lsb or 0.0)), str(self))

    def __str__(self) -> str:
        return f"within {self.n} LSB"


@dataclass(frozen=True)
class MinSqnrDb(Tolerance):
    """10·log10(Σ before² / Σ (after − before)²) ≥ db.

    Args:
        db: decibels.
    """

    db: float = 10.0

    def violation(self, before: Array, after: Array, lsb: float | None = None) -> str | None:
        """See `Tolerance.violation`."""
        signal = before.astype(np.float64)
        noise = after.astype(np.float64) - signal
        if not np.isfinite(noise).all():
            return _worst(before, after, np.asarray(np.inf), str(self))
        noise_power = float(np.sum(noise * noise))
        if lsb is not None and noise.size and float(np.max(np.abs(noise))) <= lsb:
            return None  # A signal smaller than a few LSB has no SQNR to speak of.
        ratio = 10 * np.log10(max(float(np.sum(signal * signal)), 1e-300) / max(noise_power, 1e-300))
        if ratio >= self.db:
            return None
        worst = _element(before, after, _flat_worst(noise))
        return f"SQNR is {ratio:.1f} dB, must be at least {self.db:g} dB; {worst}"

    def __str__(self) -> str:
        return f"SQNR of at least {self.db:g} dB"


def _worst(before: Array, after: Array, bound: Array, rule: str) -> str | None:
    """Return a description of the worst element beyond the bound, or None."""
    a, b = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(b - a)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    bad = (difference > bound) | np.isinf(difference)
    if not bad.any():
        return None
    worst = _element(before, after, _flat_worst(difference))
    return f"{int(bad.sum())} of {bad.size} elements break '{rule}'; {worst}"


def _flat_worst(difference: Array) -> int:
    return int(np.argmax(np.where(np.isnan(difference), np.inf, np.abs(difference))))


def _element(before: Array, after: Array, flat: int) -> str:
    index = [int(i) for i in np.unravel_index(flat, before.shape)]
    return f"worst at {index}: {before.ravel()[flat]!s} became {after.ravel()[flat]!s}"
