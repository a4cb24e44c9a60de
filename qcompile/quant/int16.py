"""Integer rules of 16-bit activations; weights stay int8.

A 16-bit integer is two planes of 8 bits, q = 256·h + l with −128 ≤ h ≤ 127 and 0 ≤ l ≤ 255. A sum of products is
taken once over each plane, by the same kernels and with the same int32 bounds as for int8 activations, and the two
sums meet in one float32 addition. All functions here are the definition; the kernels repeat them bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.quant import requantize as rq
from qcompile.quant.qparams import REMEMBERED, QParams
from qcompile.quant.scaled import ScaledActivation

Array = npt.NDArray[Any]
Int32Array = npt.NDArray[np.int32]

INT16 = "int16"

HEADROOM = 2.0
"""By how much the range of a 16-bit tensor exceeds what calibration saw: one bit of sixteen against clipping."""

LOW_BITS = 8
"""Bits of the lower plane."""

SEGMENT_BITS = 4
"""Bits within a segment of an interpolated table: 2^12 segments of 16 steps each."""

_FRACTIONS = {"int16": 0, "int8": 8}
"""Fraction bits of the entries of a table by the type of its results: entries of 16 bits hold as many."""

_SUM_BITS = 7
"""Most fraction bits of the operands of an addition, in steps of the result."""

_LEAST_SHIFT = -15

_TERM = QParams((1.0,), (0,), "int32", -rq.WIDE_LIMIT, rq.WIDE_LIMIT)
"""Parameters of the operands of an addition."""


def split(q: Array) -> tuple[Array, Array]:
    """Return the planes of 16-bit integers.

    Formula:
        h = q >> 8, l = q & 255

    Args:
        q: int16 in LSB, or int32 (a bias), any shape.

    Returns:
        h (in units of 256 LSB) and l, both int32.
    """
    wide = np.asarray(q).astype(np.int32)
    return wide >> np.int32(LOW_BITS), wide & np.int32(2**LOW_BITS - 1)


def centred_planes(q: Array, qparams: QParams) -> tuple[Array, Array]:
    """Return the planes of 16-bit integers, each relative to that plane of the zero point.

    Formula:
        q − zp = 256·(h − h(zp)) + (l − l(zp)), each difference within ±255

    Args:
        q: int16, LSB.
        qparams: of q, per tensor.

    Returns:
        Both differences, int32.
    """
    zeros = split(np.array(qparams.scalar_zero_point, np.int32))
    high, low = (np.asarray(plane - zero) for plane, zero in zip(split(q), zeros, strict=True))
    return high, low


def combine(high: Int32Array, low: Int32Array) -> npt.NDArray[np.float32]:
    """Return the sum that two planes' sums stand for.

    Formula:
        t = float32(high) · 256 + float32(low)

    The product is exact, so that a fused multiply-add gives the same bits.

    Args:
        high: sums over the upper plane, the bias's upper plane included.
        low: sums over the lower plane, likewise.
    """
    return np.asarray(high.astype(np.float32) * np.float32(2**LOW_BITS) + low.astype(np.float32))


def requantize_real(
    scaled: npt.NDArray[np.float32],
    m: npt.ArrayLike,
    qparams: QParams,
    activation: ScaledActivation | None = None,
) -> Array:
    """Bring combined sums to the scale of a result.

    Formula:
        q = int(rne(min(max(f(t · m), qmin − zp), qmax − zp))) + zp

    Args:
        scaled: t, as `combine` returns it; the channel is the last axis.
        m: float32 factor, scalar or one per channel.
        qparams: of the result, per tensor.
        activation: f; None for the identity.
    """
    # For float32 operands requantize's conversion changes nothing.
    return rq.requantize(scaled, m, qparams, activation)  # type: ignore[arg-type]


@dataclass(frozen=True)
class SumConstants:
    """Constants of an addition in which 16-bit tensors take part.

    Args:
        multipliers: float32 factor of each operand, to steps of scale_y / 2^shift.
        shift: fraction bits; negative where the operands reach so much further than the sum.
    """

    multipliers: tuple[float, float]
    shift: int

    @property
    def limit(self) -> int:
        """Clamp of a sum that is shifted to the left, so that it stays in int32: beyond any int16."""
        return 1 << (16 + self.shift)


@lru_cache(REMEMBERED)
def sum_constants(a: QParams, b: QParams, result: QParams, signs: tuple[int, int] = (1, 1)) -> SumConstants:
    """Choose the constants of y = a + b (or a − b, with signs (1, −1)).

    Formula:
        m = float32(s / s_y · 2^k); k is the largest (−15 ≤ k ≤ 7) for which 2^15·s/s_y·2^k stays within 2^22

    Args:
        a: parameters of the first operand, per tensor.
        b: parameters of the second operand, per tensor.
        result: parameters of the sum, per tensor.
        signs: +1 or −1 for each operand.

    Raises:
        ValueError: an operand reaches so much further than the result that its steps would be lost.
    """
    reach = max(_magnitude(q) * q.scalar_scale for q in (a, b)) / result.scalar_scale
    shift = int(min(_SUM_BITS, np.floor(22 - np.log2(reach))))
    if shift < _LEAST_SHIFT:
        raise ValueError(
            f"operand scales {a.scalar_scale:g} and {b.scalar_scale:g} are too large "
            f"for the result's {result.scalar_scale:g}"
        )
    step = np.ldexp(result.scalar_scale, -shift)
    factors = [sign * float(rq.multiplier(q.scalar_scale, step)) for q, sign in zip((a, b), signs, strict=True)]
    return SumConstants((factors[0], factors[1]), shift)


def _magnitude(q: QParams) -> int:
    return max(q.qmax - q.scalar_zero_point, q.scalar_zero_point - q.qmin)


def add(qa: Array, qb: Array, a: QParams, b: QParams, result: QParams, signs: tuple[int, int] = (1, 1)) -> Array:
    """Add two quantized tensors of which at least one, or the sum, has 16 bits.

    Formula:
        t = int(rne(clamp(float32(q − z) · m, ±2^22))) for each operand,
        q = clamp((t_a + t_b + 2^(k−1)) >> k, qmin − zp, qmax − zp) + zp; for k ≤ 0 the sum is shifted left by −k

    Args:
        qa: first operand, LSB; shapes broadcast.
        qb: second operand, LSB.
        a: parameters of qa, per tensor.
        b: parameters of qb, per tensor.
        result: parameters of the sum, per tensor.
        signs: (1, −1) subtracts.
    """
    constants = sum_constants(a, b, result, signs)
    terms = [
        rq.requantize(q.astype(np.int32) - np.int32(p.scalar_zero_point), np.float32(m), _TERM)
        for q, p, m in zip((qa, qb), (a, b), constants.multipliers, strict=True)
    ]
    total, shift = terms[0] + terms[1], constants.shift
    if shift > 0:
        shifted = (total + np.int32(1 << (shift - 1))) >> np.int32(shift)
    else:
        shifted = np.clip(total, -constants.limit, constants.limit) << np.int32(-shift)
    return rq.bounded(shifted, result)


def fraction_bits(dtype: str) -> int:
    """Return how many bits finer than its results the entries of an interpolated table are."""
    return _FRACTIONS[dtype]


def bend(function: Callable[[Array], Array], lo: float, hi: float) -> float:
    """Return how far a function is from the straight lines between the entries of its table, as a part of its reach.

    Formula:
        sqrt(mean((f(x + h/2) − (f(x) + f(x + h)) / 2)²)) / (max f − min f), over the segments of width h in [lo, hi]

    Args:
        function: f, applied to a float64 array of real values.
        lo: smallest real value that the function gets.
        hi: largest real value that the function gets.
    """
    width = 2**SEGMENT_BITS * QParams.int16(lo * HEADROOM, hi * HEADROOM).scalar_scale
    segments = max(int(np.ceil((hi - lo) / width)), 1)
    with np.errstate(all="ignore"):
        found = np.asarray(function(np.linspace(lo, hi, 2 * segments + 1)), np.float64)
        ends, middles = found[::2], found[1::2]
        off = middles - (ends[:-1] + ends[1:]) / 2
    off, found = off[np.isfinite(off)], found[np.isfinite(found)]
    reach = float(np.ptp(found)) if found.size else 0.0
    return float(np.sqrt(np.mean(off**2))) / reach if off.size and reach > 0 else 0.0


def table(function: object, qx: QParams, qy: QParams) -> Int32Array:
    """Tabulate a unary real function at the ends of 4096 segments of the 16-bit inputs.

    Formula:
        T[i] = clamp(rne(f(scale_x · (16·i − 32768 − zp_x)) / scale_y · 2^k) + zp_y · 2^k, qmin · 2^k, qmax · 2^k),
        in float64; k is 8 for results of 8 bits, so that only they are rounded and not the ends too, and 0 for 16

    Args:
        function: f, applied to a float64 array of real values.
        qx: parameters of the input, int16, per tensor.
        qy: parameters of the output, per tensor.

    Returns:
        4096 entries of 32 bits: T[i] in the lower half, T[i + 1] in the upper.
    """
    if not callable(function):
        raise TypeError("table needs a function of one array")
    knots = np.arange(2 ** (16 - SEGMENT_BITS) + 1, dtype=np.float64) * 2**SEGMENT_BITS - 32768
    fine = 2 ** fraction_bits(qy.dtype)
    with np.errstate(all="ignore"):
        real = np.asarray(function((knots - qx.scalar_zero_point) * qx.scalar_scale), np.float64)
        scaled = np.rint(real / qy.scalar_scale * fine)
    # As for tables of 256 entries: infinities end at the right bound, NaN at the lower one.
    low, high = qy.qmin - qy.scalar_zero_point, qy.qmax - qy.scalar_zero_point
    entries = (np.fmin(np.fmax(scaled, low * fine), high * fine) + qy.scalar_zero_point * fine).astype(np.int32)
    packed = (entries[:-1] & np.int32(0xFFFF)) | (entries[1:] << np.int32(16))
    return np.asarray(packed, np.int32)


def look_up(q: Array, entries: Int32Array, dtype: str) -> Array:
    """Map 16-bit integers through a table, straight between its entries.

    Formula:
        p = q + 32768, i = p >> 4, y = (16·T[i] + (T[i+1] − T[i])·(p & 15) + 2^(3+k)) >> (4 + k), k as for `table`

    Args:
        q: int16, LSB.
        entries: as `table` returns them.
        dtype: of the result.

    Source:
        The 16-bit tables of TensorFlow Lite have 512 segments; these have 4096.
    """
    place = q.astype(np.int32) + np.int32(32768)
    pair = entries[place >> np.int32(SEGMENT_BITS)]
    first = (pair << np.int32(16)) >> np.int32(16)
    rise = (pair >> np.int32(16)) - first
    part = place & np.int32(2**SEGMENT_BITS - 1)
    bits = SEGMENT_BITS + fraction_bits(dtype)
    total = (first << np.int32(SEGMENT_BITS)) + rise * part
    return np.asarray((total + np.int32(2 ** (bits - 1))) >> np.int32(bits)).astype(dtype)
