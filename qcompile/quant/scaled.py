"""Activations on scaled accumulators, before the only rounding; fixed float32 operations in a fixed order.

No product is the operand of an addition here, so that a fused multiply-add cannot change a bit: every instruction
set and NumPy agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

DIVIDED = ("channel_clip", "channel_hard_swish")
"""Activations whose results are divided by a number for each channel: those that do not scale with their operand,
so that a layer's weights cannot take the factor in."""

PER_CHANNEL = ("prelu", *DIVIDED)
"""Activations of SCALED whose parameter is one for each channel."""

SCALED = ("leaky_relu", "hard_swish", *PER_CHANNEL)
"""Activations that integer layers apply to the accumulator once it is scaled, so that it is rounded once."""


@dataclass(frozen=True)
class ScaledActivation:
    """An activation of s = float32(acc) · m, in steps of the result; p is its parameter.

    Formula:
        leaky_relu, prelu: max(s, s·p), for slopes p ≤ 1
        hard_swish, channel_hard_swish: s · (min(max(s·p, −1/2), 1/2) + 1/2), p = step / 6
        channel_clip: min(s, p), p = upper bound / step; the result's qmin is the bound at zero

    Args:
        name: one of SCALED.
        parameters: float32, p: one for each channel with PER_CHANNEL, else a single one.
    """

    name: str
    parameters: tuple[float, ...]

    def __call__(self, scaled: FloatArray) -> FloatArray:
        """Apply it.

        Args:
            scaled: float32, steps of the result, any shape; the channel is the last axis.
        """
        p, half = np.asarray(self.parameters, np.float32), np.float32(0.5)
        if self.name == "channel_clip":
            return np.asarray(np.minimum(scaled, p))
        if self.name in ("leaky_relu", "prelu"):
            return np.asarray(np.maximum(scaled, scaled * p))
        return np.asarray(scaled * (np.minimum(np.maximum(scaled * p, -half), half) + half))

    def expression(self, e: Any, scaled: Any) -> Any:
        """Return the same as an expression of the lowering's builder; there is none for PER_CHANNEL.

        Args:
            e: the expression builder.
            scaled: float32, steps of the result.
        """
        (parameter,) = self.parameters
        product, half = scaled * e.f32(parameter), e.f32(0.5)
        if self.name == "leaky_relu":
            return e.max(scaled, product)
        return scaled * (e.min(e.max(product, e.f32(-0.5)), half) + half)

    @property
    def gain(self) -> float:
        """Bound of |result / s|."""
        sloped = self.name in ("leaky_relu", "prelu")
        return max(1.0, *map(abs, self.parameters)) if sloped else 1.0


def scaled_activation(attrs: Any, step: float) -> ScaledActivation:
    """Return what a layer applies to its scaled accumulators.

    Args:
        attrs: has activation, one of SCALED, alpha and beta, as `qcompile.ops.arithmetic.ACTIVATIONS` says, for prelu
            slopes, and for DIVIDED divisors.
        step: of the result, real units per LSB; 1 where the result is real.
    """
    name = attrs.activation
    steps = channel_steps(attrs, step)
    if name in ("leaky_relu", "prelu"):
        parameters = attrs.slopes if name == "prelu" else attrs.alpha
    else:
        parameters = attrs.beta / steps if name == "channel_clip" else steps / 6.0
    return ScaledActivation(name, tuple(np.atleast_1d(np.asarray(parameters, np.float32)).tolist()))


def channel_steps(attrs: Any, step: float) -> npt.NDArray[np.float64]:
    """Return what a step of the result is worth before the result is divided.

    Formula:
        step · d[c]; step without divisors

    Args:
        attrs: of a layer, with or without divisors d.
        step: of the result, real units per LSB.

    Returns:
        One number, or one for each channel; real units per LSB.
    """
    divisors = getattr(attrs, "divisors", ())
    return np.asarray(step * np.asarray(divisors or 1.0, np.float32).astype(np.float64))
