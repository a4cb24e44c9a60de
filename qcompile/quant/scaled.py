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

SCALED = ("leaky_relu", "hard_swish", "prelu")
"""Activations that integer layers apply to the accumulator once it is scaled, so that it is rounded once."""


@dataclass(frozen=True)
class ScaledActivation:
    """An activation of s = float32(acc) · m, in steps of the result.

    Formula:
        leaky_relu: max(s, s·alpha), for slopes alpha ≤ 1
        prelu: max(s, s·slope[c]), for slopes ≤ 1
        hard_swish: s · ((min(max(s, −alpha), alpha) + alpha) · beta), alpha = 3 / step, beta = step / 6

    Args:
        name: one of SCALED.
        alpha: float32, dimensionless for leaky_relu, else in steps of the result.
        beta: float32, per step.
        slopes: of prelu, one for each channel, float32.
    """

    name: str
    alpha: float = 0.0
    beta: float = 0.0
    slopes: tuple[float, ...] = ()

    def __call__(self, scaled: FloatArray) -> FloatArray:
        """Apply it.

        Args:
            scaled: float32, steps of the result, any shape; the channel is the last axis.
        """
        if self.name == "prelu":
            return np.asarray(np.maximum(scaled, scaled * np.asarray(self.slopes, np.float32)))
        alpha, beta = np.float32(self.alpha), np.float32(self.beta)
        if self.name == "leaky_relu":
            return np.asarray(np.maximum(scaled, scaled * alpha))
        gate = np.minimum(np.maximum(scaled, -alpha), alpha) + alpha
        return np.asarray(scaled * (gate * beta))

    def expression(self, e: Any, scaled: Any) -> Any:
        """Return the same as an expression of the lowering's builder; there is none for prelu.

        Args:
            e: the expression builder.
            scaled: float32, steps of the result.
        """
        if self.name == "leaky_relu":
            return e.max(scaled, scaled * e.f32(self.alpha))
        gate = e.min(e.max(scaled, e.f32(-self.alpha)), e.f32(self.alpha)) + e.f32(self.alpha)
        return scaled * (gate * e.f32(self.beta))

    @property
    def gain(self) -> float:
        """Bound of |result / s|."""
        if self.name == "hard_swish":
            return 1.0 + 2.0**-20
        return max(1.0, abs(self.alpha), *map(abs, self.slopes))


def scaled_activation(attrs: Any, step: float) -> ScaledActivation:
    """Return what a layer applies to its scaled accumulators.

    Args:
        attrs: has activation, one of SCALED, alpha, as `qcompile.ops.arithmetic.ACTIVATIONS` says, and for prelu
            slopes.
        step: of the result, real units per LSB; 1 where the result is real.
    """
    if attrs.activation == "leaky_relu":
        return ScaledActivation("leaky_relu", float(np.float32(attrs.alpha)))
    if attrs.activation == "prelu":
        return ScaledActivation("prelu", slopes=tuple(np.asarray(attrs.slopes, np.float32).tolist()))
    return ScaledActivation("hard_swish", float(np.float32(3.0 / step)), float(np.float32(step / 6.0)))
