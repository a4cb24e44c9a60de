"""Real numbers to integers and back, exactly as every kernel does it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.quant.qparams import REMEMBERED, QParams

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.signedinteger[Any]]


def _along_axis(
    values: tuple[float, ...] | tuple[int, ...], dtype: str, axis: int | None, ndim: int
) -> npt.NDArray[Any]:
    array = np.asarray(values, dtype)
    if axis is None:
        return array.reshape(())
    shape = [1] * ndim
    shape[axis] = array.size
    return array.reshape(shape)


@dataclass(frozen=True)
class _Constants:
    """QParams as arrays that broadcast to a tensor; the bounds are relative to the zero point."""

    scale: npt.NDArray[np.float32]
    inverse: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]


@lru_cache(REMEMBERED)
def _constants(qparams: QParams, ndim: int) -> _Constants:
    scale = _along_axis(qparams.scale, "float32", qparams.axis, ndim)
    zp = _along_axis(qparams.zero_point, "int32", qparams.axis, ndim)
    low, high = ((bound - zp).astype(np.float32) for bound in (qparams.qmin, qparams.qmax))
    return _Constants(scale, np.asarray(np.float32(1.0) / scale), zp, np.asarray(low), np.asarray(high))


def quantize(x: FloatArray, qparams: QParams) -> IntArray:
    """Quantize real values.

    Formula:
        q = int(rne(min(max(x · inv, qmin − zp), qmax − zp))) + zp, with inv = float32(1 / scale)

    Args:
        x: real values, any shape; computed in float32. NaN becomes qmin.
        qparams: per tensor or per channel.

    Returns:
        q of `qparams.dtype`, the shape of x, in LSB.

    Source:
        ONNX QuantizeLinear, with the division replaced by one float32 multiplication so that every
        instruction set gives the same bits.
    """
    constants = _constants(qparams, x.ndim)
    inv, zp, lo, hi = constants.inverse, constants.zero_point, constants.low, constants.high
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.asarray(x, np.float32) * inv
    clamped = np.fmin(np.fmax(scaled, lo), hi)
    return np.asarray(np.rint(clamped).astype(np.int32) + zp).astype(qparams.dtype)


def dequantize(q: IntArray, qparams: QParams) -> FloatArray:
    """Return the real values that q stands for.

    Formula:
        x = float32(q − zero_point) · scale

    Args:
        q: integers in LSB, any shape.
        qparams: per tensor or per channel.

    Source:
        ONNX DequantizeLinear.
    """
    constants = _constants(qparams, q.ndim)
    centred = q.astype(np.int32) - constants.zero_point
    return np.asarray(centred.astype(np.float32) * constants.scale, np.float32)


def fake_quantize(x: FloatArray, qparams: QParams) -> FloatArray:
    """Round real values to the nearest representable ones: dequantize(quantize(x)).

    Args:
        x: real values, any shape.
        qparams: per tensor or per channel.
    """
    return dequantize(quantize(x, qparams), qparams)
