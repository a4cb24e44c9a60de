"""Real numbers to integers and back, exactly as every kernel does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompile.quant.qparams import QParams

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
    scale = np.asarray(qparams.scale, np.float32)
    inverse = tuple(float(v) for v in np.float32(1.0) / scale)
    inv = _along_axis(inverse, "float32", qparams.axis, x.ndim)
    zp = _along_axis(qparams.zero_point, "int32", qparams.axis, x.ndim)
    lo = (qparams.qmin - zp).astype(np.float32)
    hi = (qparams.qmax - zp).astype(np.float32)
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
    scale = _along_axis(qparams.scale, "float32", qparams.axis, q.ndim)
    zp = _along_axis(qparams.zero_point, "int32", qparams.axis, q.ndim)
    centred = q.astype(np.int32) - zp
    return np.asarray(centred.astype(np.float32) * scale, np.float32)


def fake_quantize(x: FloatArray, qparams: QParams) -> FloatArray:
    """Round real values to the nearest representable ones: dequantize(quantize(x)).

    Args:
        x: real values, any shape.
        qparams: per tensor or per channel.
    """
    return dequantize(quantize(x, qparams), qparams)
