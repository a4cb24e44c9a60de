"""The 64-byte parameter block: the scalars of a layer, kept out of its code so that layers share kernels.

Kernels read it through pointer p7, as float32 and as int32.

    index  type     meaning
    0, 1   float32  clamp of the scaled sums: qmin - zp, qmax - zp (with a residual: ±WIDE_LIMIT)
    2      int32    zero point of the output, as stored
    3      int32    zero point of the input, as stored (padding)
    4      int32    residual multiplier M_r
    5      int32    2^(WIDE_SHIFT-1) - z_r * M_r, z_r as stored
    6, 7   int32    clamp after a residual add: qmin - zp, qmax - zp
    8, 9   float32  alpha, beta of an activation
    10     float32  0.0, the padding of a float input (a constant would become a call of memset)
    11     int32    zero point of the residual, as stored
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qcompile.quant.requantize import WIDE_LIMIT, WIDE_SHIFT

LO, HI, OUT_ZERO, IN_ZERO, RESIDUAL_FACTOR, RESIDUAL_OFFSET, INT_LO, INT_HI, ALPHA, BETA, PAD, RESIDUAL_ZERO = range(12)
WORDS = 16

RESIDUAL_REACH = (WIDE_LIMIT >> 1) // 255
"""Greatest factor M_r for which sums with a wide operand at its limit stay beyond all codes, without the clamp."""


@dataclass(frozen=True)
class LayerScalars:
    """The scalar parameters of a layer, in int8 terms (q and zero points in [-128, 127]).

    Args:
        x_zero_point: of the input.
        y_zero_point: of the output.
        qmin: least output code (a fused ReLU raises it).
        qmax: greatest output code.
        residual_zero_point: of the residual tensor.
        residual_factor: M_r = rne(s_r / s_y * 2^WIDE_SHIFT).
        alpha: parameter of an activation; of one on scaled sums as ``qcompile.quant.scaled`` says.
        beta: second parameter of one on real sums.
        per_channel: parameters of an activation that has one for each filter; these are not in the block.
    """

    x_zero_point: int = 0
    y_zero_point: int = 0
    qmin: int = -128
    qmax: int = 127
    residual_zero_point: int = 0
    residual_factor: int = 0
    alpha: float = 0.0
    beta: float = 0.0
    per_channel: tuple[float, ...] = ()


def parameter_block(scalars: LayerScalars, activation_dtype: str, residual: bool) -> npt.NDArray[np.int32]:
    """Lay the scalars out as the kernels read them.

    Args:
        scalars: of the layer.
        activation_dtype: "int8" or "uint8", how the instruction set stores activations.
        residual: whether a residual is added after requantizing.
    """
    shift = 128 if activation_dtype == "uint8" else 0
    bounds = (scalars.qmin - scalars.y_zero_point, scalars.qmax - scalars.y_zero_point)
    integers = np.zeros(WORDS, np.int32)
    floats = integers.view(np.float32)
    floats[[LO, HI]] = (-WIDE_LIMIT, WIDE_LIMIT) if residual else bounds
    integers[OUT_ZERO] = scalars.y_zero_point + shift
    integers[IN_ZERO] = scalars.x_zero_point + shift
    integers[RESIDUAL_FACTOR] = scalars.residual_factor
    half = 1 << (WIDE_SHIFT - 1)
    integers[RESIDUAL_OFFSET] = half - (scalars.residual_zero_point + shift) * scalars.residual_factor
    integers[[INT_LO, INT_HI]] = bounds
    integers[RESIDUAL_ZERO] = scalars.residual_zero_point + shift
    floats[[ALPHA, BETA]] = (scalars.alpha, scalars.beta)
    return integers
