"""Where the elements of a resized axis come from: coordinates, taps and their coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.quant.requantize import RESIZE_BITS

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")

Indices = npt.NDArray[np.int32]
Coefficients = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """One resized axis.

    Args:
        size: extent of the operand, elements.
        out: extent of the result, elements.
        scale: ratio result to operand as the model gives it; it may differ from out / size.
        coordinates: how positions correspond, one of COORDINATES.
    """

    size: int
    out: int
    scale: float
    coordinates: str

    def positions(self) -> npt.NDArray[np.float32]:
        """Return the position in the operand, in elements, that each element of the result stands for.

        Formula:
            half_pixel: (i + ½) / scale − ½; asymmetric: i / scale; align_corners: i·(size − 1) / (out − 1);
            pytorch_half_pixel: as half_pixel, but 0 where out = 1; tf_half_pixel_for_nn: (i + ½) / scale;
            half_pixel_symmetric: half_pixel, shifted so that both ends are cut alike

        Source:
            ONNX Resize, in float32, which decides the ties of nearest interpolation.
        """
        i = np.arange(self.out, dtype=np.float32)
        scale, half = np.float32(self.scale), np.float32(0.5)
        if self.coordinates == "asymmetric":
            return np.asarray(i / scale, np.float32)
        if self.coordinates == "align_corners":
            return np.asarray(i * np.float32(self.size - 1) / np.float32(max(self.out - 1, 1)), np.float32)
        if self.coordinates == "pytorch_half_pixel" and self.out == 1:
            return np.zeros(1, np.float32)
        if self.coordinates == "tf_half_pixel_for_nn":
            return np.asarray((i + half) / scale, np.float32)
        centred = (i + half) / scale - half
        if self.coordinates == "half_pixel_symmetric":
            size, out = np.float32(self.size), np.float32(self.out)
            centred = size * half * (np.float32(1) - out / (scale * size)) + centred
        return np.asarray(centred, np.float32)

    def nearest(self, rounding: str) -> Indices:
        """Return the element of the operand that each element of the result copies.

        Args:
            rounding: of positions between two elements, one of ROUNDINGS.
        """
        x = self.positions()
        half = np.float32(0.5)
        rounded = {
            "floor": np.floor(x),
            "ceil": np.ceil(x),
            "round_prefer_floor": np.ceil(x - half),
            "round_prefer_ceil": np.floor(x + half),
        }[rounding]
        return np.asarray(np.clip(rounded, 0, self.size - 1), np.int32)

    def linear(self) -> tuple[Indices, Coefficients]:
        """Return the two elements that each element of the result mixes, and their shares.

        Formula:
            x clamped to the operand; elements ⌊x⌋ and ⌊x⌋ + 1 with shares 1 − (x − ⌊x⌋) and x − ⌊x⌋

        Returns:
            Indices [out, 2] and coefficients [out, 2].
        """
        x = np.clip(self.positions(), 0, self.size - 1)
        low = np.floor(x)
        share = (x - low).astype(np.float32)
        first = low.astype(np.int32)
        indices = np.stack([first, np.minimum(first + 1, self.size - 1)], 1)
        return indices, np.stack([1 - share, share], 1).astype(np.float32)

    def cubic(self, a: float, exclude_outside: bool) -> tuple[Indices, Coefficients]:
        """Return the four elements that each element of the result mixes, and their shares.

        Formula:
            with d the distance, (a + 2)d³ − (a + 3)d² + 1 for d ≤ 1 and a(d³ − 5d² + 8d − 4) for 1 < d < 2

        Args:
            a: sharpness of the kernel.
            exclude_outside: whether elements beyond the edge count nothing; else the edge stands for them.

        Returns:
            Indices [out, 4] and coefficients [out, 4].

        Source:
            Keys 1981, "Cubic convolution interpolation for digital image processing".
        """
        x = self.positions().astype(np.float64)
        taps = np.floor(x)[:, None] + np.arange(-1, 3)
        d = np.abs(x[:, None] - taps)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        shares = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        if exclude_outside:
            shares = np.where((taps < 0) | (taps >= self.size), 0.0, shares)
            shares = shares / shares.sum(1, keepdims=True)
        return np.clip(taps, 0, self.size - 1).astype(np.int32), shares.astype(np.float32)


def fixed_point(coefficients: Coefficients) -> npt.NDArray[np.int32]:
    """Return linear coefficients as integers that sum to 2^RESIZE_BITS.

    Formula:
        c₁ = rne(share · 2^11), c₀ = 2^11 − c₁

    Args:
        coefficients: [out, 2] shares of `Axis.linear`.
    """
    second = np.rint(coefficients[:, 1].astype(np.float64) * 2**RESIZE_BITS).astype(np.int32)
    return np.stack([np.int32(2**RESIZE_BITS) - second, second], 1)


def regular_factor(indices: Any) -> int | None:
    """Return f if index i is i // f throughout (nearest enlargement by a whole number), else None."""
    factor = int(np.argmax(indices > 0)) if (indices > 0).any() else len(indices)
    regular = factor > 0 and bool((indices == np.arange(len(indices)) // factor).all())
    return factor if regular else None
