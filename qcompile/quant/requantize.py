"""The exact integer rules: accumulators and other integers to a new scale.

These functions are the definition; the kernels repeat them bit for bit. Multiplications by a scale are one
float32 multiply followed by a clamp, a round-half-to-even and an integer add, because a float add could be
contracted into a fused multiply-add on one instruction set and not on another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.quant.qparams import REMEMBERED, QParams
from qcompile.quant.scaled import ScaledActivation

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.signedinteger[Any]]

WIDE_SHIFT = 12
"""Fraction bits of the int32 tensor that carries an accumulator into a residual add."""

WIDE_LIMIT = 2**22
"""Clamp of such a tensor, in LSB: ±1024 steps of the sum, and small enough to round by adding 1.5 · 2^23."""

RESIZE_BITS = 11
"""Fraction bits of an interpolation coefficient along one axis."""


def multiplier(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the float32 factor that takes integers of one scale to another.

    Formula:
        m = float32(numerator / denominator), the quotient in float64

    Args:
        numerator: scale of the accumulator, real units per LSB.
        denominator: scale of the result, real units per LSB.
    """
    return np.asarray(np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64), np.float32)


def requantize(
    acc: Int32Array, m: npt.NDArray[np.float32], qparams: QParams, activation: ScaledActivation | None = None
) -> IntArray:
    """Bring accumulators to the scale of a result.

    Formula:
        q = int(rne(min(max(f(float32(acc) · m), qmin − zp), qmax − zp))) + zp

    Args:
        acc: int32 accumulators, LSB of the product of scales; the channel is the last axis.
        m: float32 factor, scalar or one per channel (broadcast over the last axis).
        qparams: of the result, per tensor.
        activation: f, applied to the scaled accumulators; None for the identity.
    """
    zp = qparams.scalar_zero_point
    scaled = np.asarray(acc.astype(np.float32) * np.asarray(m, np.float32))
    if activation is not None:
        scaled = activation(scaled)
    # Not np.clip, which takes longer than all else here on the small tensors of loops.
    np.maximum(scaled, np.float32(qparams.qmin - zp), out=scaled)
    np.minimum(scaled, np.float32(qparams.qmax - zp), out=scaled)
    q = np.rint(scaled, out=scaled).astype(np.int32)
    q += zp
    return q.astype(qparams.dtype)


def wide_qparams(result: QParams) -> QParams:
    """Return the parameters of the int32 tensor between a convolution and its residual add.

    Formula:
        scale = scale_y / 2^12, zero_point = 0, |q| ≤ 2^22

    Args:
        result: parameters of the sum, per tensor.
    """
    scale = float(np.float32(np.ldexp(result.scalar_scale, -WIDE_SHIFT)))
    return QParams((scale,), (0,), "int32", -WIDE_LIMIT, WIDE_LIMIT)


@dataclass(frozen=True)
class AddConstants:
    """Fixed-point constants of an integer addition.

    Args:
        multipliers: integer factor of each operand, in 2^−shift.
        shift: fraction bits.
    """

    multipliers: tuple[int, int]
    shift: int


@lru_cache(REMEMBERED)
def add_constants(a: QParams, b: QParams, result: QParams, signs: tuple[int, int] = (1, 1)) -> AddConstants:
    """Choose the fixed-point constants of y = a + b (or a − b, with signs (1, −1)).

    Formula:
        M = rne(s / s_y · 2^k); k is the largest (≤ 20) that keeps 256·(|M_a| + |M_b|) below 2^30, and is 12
        where an operand is wide, whose own factor is then exactly 1

    Args:
        a: parameters of the first operand, per tensor.
        b: parameters of the second operand, per tensor.
        result: parameters of the sum, per tensor.
        signs: +1 or −1 for each operand.

    Raises:
        ValueError: a scale ratio is so large that int32 would overflow.
    """
    ratios = [q.scalar_scale / result.scalar_scale for q in (a, b)]
    if a.dtype == "int32" or b.dtype == "int32":
        shift = WIDE_SHIFT
    else:
        shift = int(min(20, np.floor(22 - np.log2(sum(ratios)))))
    factors = [int(np.rint(np.ldexp(r, shift))) for r in ratios]
    reach = sum((2 * WIDE_LIMIT if q.dtype == "int32" else 256) * f for q, f in zip((a, b), factors, strict=True))
    if shift < 1 or reach >= 2**30 + 2 * WIDE_LIMIT:
        raise ValueError(
            f"operand scales {a.scalar_scale:g} and {b.scalar_scale:g} are too large "
            f"for the result's {result.scalar_scale:g}"
        )
    return AddConstants((signs[0] * factors[0], signs[1] * factors[1]), shift)


def add(
    qa: IntArray,
    qb: IntArray,
    a: QParams,
    b: QParams,
    result: QParams,
    signs: tuple[int, int] = (1, 1),
) -> IntArray:
    """Add two quantized tensors in integers.

    Formula:
        q = clamp(((q_a − z_a)·M_a + (q_b − z_b)·M_b + 2^(k−1)) >> k, qmin − zp, qmax − zp) + zp

    Args:
        qa: first operand, LSB; shapes broadcast.
        qb: second operand, LSB.
        a: parameters of qa, per tensor.
        b: parameters of qb, per tensor.
        result: parameters of the sum, per tensor.
        signs: (1, −1) subtracts.
    """
    constants = add_constants(a, b, result, signs)
    total = (qa.astype(np.int32) - np.int32(a.scalar_zero_point)) * np.int32(constants.multipliers[0])
    total = total + (qb.astype(np.int32) - np.int32(b.scalar_zero_point)) * np.int32(constants.multipliers[1])
    shifted = (total + np.int32(1 << (constants.shift - 1))) >> np.int32(constants.shift)
    return bounded(shifted, result)


def bounded(steps: Int32Array, result: QParams) -> IntArray:
    """Return integers of a result from its steps relative to the zero point.

    Formula:
        q = clamp(steps, qmin − zp, qmax − zp) + zp

    Args:
        steps: int32, LSB of the result.
        result: parameters, per tensor.
    """
    zp = result.scalar_zero_point
    clamped = np.minimum(np.maximum(steps, np.int32(result.qmin - zp)), np.int32(result.qmax - zp))
    return np.asarray(clamped + np.int32(zp)).astype(result.dtype)


def prelu_multipliers(
    slope: npt.NDArray[np.floating[Any]], x: QParams, result: QParams
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the requantization factors of a parametric rectifier.

    Formula:
        m₊ = float32(s_x / s_y), m₋[c] = float32(slope[c] · s_x / s_y), in float64

    Args:
        slope: of the negative side, dimensionless, any shape.
        x: parameters of the operand, per tensor.
        result: parameters of the result, per tensor.
    """
    positive = multiplier(x.scalar_scale, result.scalar_scale)
    return positive, multiplier(slope.astype(np.float64) * x.scalar_scale, result.scalar_scale)


def prelu(q: IntArray, slope: npt.NDArray[np.floating[Any]], x: QParams, result: QParams) -> IntArray:
    """Apply a parametric rectifier in integers.

    Formula:
        acc = q − zp_x, requantized with m₊ where acc ≥ 0 and with m₋[c] below

    Args:
        q: operand, LSB.
        slope: of the negative side, dimensionless; broadcasts to q.
        x: parameters of q, per tensor.
        result: parameters of the result, per tensor.
    """
    positive, negative = prelu_multipliers(slope, x, result)
    acc = q.astype(np.int32) - np.int32(x.scalar_zero_point)
    return requantize(acc, np.where(acc >= 0, positive, negative), result)


def table(function: object, qx: QParams, qy: QParams) -> npt.NDArray[np.int8]:
    """Tabulate a unary real function over all int8 inputs.

    Formula:
        T[q + 128] = clamp(rne(f(scale_x · (q − zp_x)) / scale_y) + zp_y, qmin, qmax), in float64

    Args:
        function: f, applied to a float64 array of 256 real values.
        qx: parameters of the input, per tensor.
        qy: parameters of the output, per tensor.

    Returns:
        256 int8 values, for q = −128 … 127.
    """
    if not callable(function):
        raise TypeError("table needs a function of one array")
    real = (np.arange(-128, 128, dtype=np.float64) - qx.scalar_zero_point) * qx.scalar_scale
    with np.errstate(all="ignore"):
        scaled = np.rint(np.asarray(function(real), np.float64) / qy.scalar_scale)
    # Clamped before the zero point is added, so that an overflow to infinity ends at the right bound;
    # fmax sends NaN (the square root of a negative number) to the lower one, as quantize does.
    low, high = qy.qmin - qy.scalar_zero_point, qy.qmax - qy.scalar_zero_point
    return np.asarray(np.fmin(np.fmax(scaled, low), high) + qy.scalar_zero_point).astype(np.int8)
